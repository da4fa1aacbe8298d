"""Answers of semantic world models: accuracy, thresholds, labels and plots."""
