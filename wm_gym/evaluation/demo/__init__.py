"""The demo: recorded actions rolled out beside the recorded frames."""
