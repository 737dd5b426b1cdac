"""Generative networks: stain transfer between two sides of unpaired slides."""
