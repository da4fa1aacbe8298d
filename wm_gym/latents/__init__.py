"""Pixels to latents and back: one file per latent space."""
