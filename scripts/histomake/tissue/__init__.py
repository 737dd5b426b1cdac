"""Tissue masks and artefact maps."""
