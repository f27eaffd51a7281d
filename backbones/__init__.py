"""One foundation-model family per file; each exposes `Config` and `load(config) -> Backbone`."""
