"""Accuracy and thresholds of what decides success: success classifiers and judges."""
