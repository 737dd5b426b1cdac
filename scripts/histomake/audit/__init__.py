"""Identity, sidecars, lineage and run records."""
