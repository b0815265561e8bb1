"""The version of igjax."""

__version__ = "0.1.0"
