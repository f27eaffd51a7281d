"""Protections beside differential privacy, one per file. None of them gives an epsilon."""
