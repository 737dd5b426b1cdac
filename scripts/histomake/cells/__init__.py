"""Cells as objects: parting of those that touch, their measures, and a table per slide."""
