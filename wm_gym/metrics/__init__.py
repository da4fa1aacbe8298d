"""Visual, latent and statistical measures."""
