"""Experiments of the papers; the scripts beside this folder run them."""
