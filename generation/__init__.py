"""Recordings as tokens, and tokens as synthetic recordings."""
