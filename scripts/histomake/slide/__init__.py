"""Whole-slide images: file formats, conversion to an OME-Zarr store, and patch reading."""
