"""Latent dynamics: the network, its training objectives and the rollouts it is stepped in."""
