"""Training and prediction data."""
