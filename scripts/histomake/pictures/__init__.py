"""Pictures of slides: tissue, predictions, annotations."""
