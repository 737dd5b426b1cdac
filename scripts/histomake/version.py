"""The library's version. It stands alone, so that a release changes no code digest."""

__version__ = "0.2.0"
