"""World models over different latent spaces, compared with controls."""
