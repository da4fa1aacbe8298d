"""Who decides whether an episode succeeded."""
