"""Explanations of models: embeddings and attributions."""
