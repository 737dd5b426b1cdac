"""Prediction and validation."""
