"""One reader per family of slide files, all behind the interface of base.py."""
