"""Rollouts under recorded actions, compared with the recorded frames."""
