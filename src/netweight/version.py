"""The version of netweight, recorded in every result."""

__version__ = "0.2.0"
