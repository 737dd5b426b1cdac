"""What people look at to understand a model."""
