"""Measuring world models and policies; the top layer of the library."""
