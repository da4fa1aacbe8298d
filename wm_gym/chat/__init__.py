"""Language models with eyes, asked in one way wherever they run."""
