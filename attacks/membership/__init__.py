"""Membership attacks; each exposes `Config`, `NEEDS` and `score(signals, config)`."""
