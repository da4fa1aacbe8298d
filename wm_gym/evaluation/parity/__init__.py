"""Reference cases of published code, and checks of imported checkpoints."""
