"""Metrics of predictions, with intervals by patient."""
