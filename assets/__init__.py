"""Checkpoints, start states and cards that ship with wm_gym."""
