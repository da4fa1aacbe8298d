"""Planners over any value function: MPPI, CEM, gradient ascent, and subgoals."""
