"""Heads: small models that learn from one vector of features per patch."""
