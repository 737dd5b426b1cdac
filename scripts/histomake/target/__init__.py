"""What a network learns: targets, outputs, pooling."""
