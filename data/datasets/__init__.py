"""One data set per file; each exposes `Config` and `load(config) -> Cohort`."""
