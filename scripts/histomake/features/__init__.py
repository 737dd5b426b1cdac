"""Features: vectors of patches made by frozen encoders, their files, and what is learned from them."""
