"""Mien: adapt a multimodal foundation model to human behaviour without it learning who anybody is."""

__version__ = "0.1.0"
