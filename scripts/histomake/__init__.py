"""histomake: the library behind the workflow's rules; every room below imports only from rooms under it."""

__version__ = "0.1.0"
