"""Readers of slide files, one per family of formats, with the common interface of base.py."""
