"""Static images of slides: tissue, predictions, annotations."""
