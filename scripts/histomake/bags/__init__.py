"""Slides and patients as bags of patches: sampling, pooling, training and prediction."""
