"""A stand-in of nvidia-resiliency-ext 0.6.0 for tests without it."""

__version__ = "0.6.0"
