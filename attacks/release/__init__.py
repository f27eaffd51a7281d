"""Attacks on a synthetic release alone; `run(release, config)` of each gives results, never a verdict."""
