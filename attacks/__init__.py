"""Attacks: one per file in a folder per kind. Scores only; larger always means "member"."""
