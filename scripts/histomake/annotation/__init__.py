"""Annotations: reading of all supported formats, geometry in level-0 pixels, rasters and area shares."""
