"""Training recipes: one readable, resumable file each."""
