"""Which outputs a run must produce."""
