"""Annotations of every format in one geometry."""
