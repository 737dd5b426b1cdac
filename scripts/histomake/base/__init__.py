"""Errors, files, paths, units: what every other package uses."""
