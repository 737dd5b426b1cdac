"""Tissue and artefacts."""
