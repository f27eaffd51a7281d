"""Identity attacks; each exposes `Config`, `NEEDS` and `score(release, gallery, config)`."""
