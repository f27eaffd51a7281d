"""Where things are kept: the cache of downloads and converted cohorts, and the run folders."""

import os
from pathlib import Path


def cache_home() -> Path:
    """`$MIEN_CACHE`, or `mien/` in the user's cache folder; made with mode 0700, for it may hold recordings."""
    base = os.environ.get("MIEN_CACHE")
    if base is None:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mien"
    home = Path(base).expanduser().resolve()
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    return home


def runs_home() -> Path:
    """`$MIEN_RUNS`, or `runs/` in the current folder."""
    return Path(os.environ.get("MIEN_RUNS") or "runs").expanduser().resolve()
