"""What is learned from patches, and the losses."""
