"""Semantic world models: questions about the future, the model that answers them, and tasks."""
