"""Slides as graphs: nodes with features, and edges between them."""
