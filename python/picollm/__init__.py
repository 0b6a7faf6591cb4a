"""Train small language models end to end. Importing this does nothing but name the version."""

__version__ = "0.1.0"
