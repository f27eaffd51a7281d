"""Attacks on a whole set of persons: was it used, and how much of it?"""
