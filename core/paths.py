"""Where things are kept: the cache of downloads and converted cohorts, and the run folders."""

import os
from pathlib import Path


def cache_home() -> Path:
    """`$MIEN_CACHE`, or `mien/` in the user's cache folder; made with mode 0700, for it may hold recordings."""
    home = _cache()
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    return home


def _cache() -> Path:
    base = os.environ.get("MIEN_CACHE")
    if base is None:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mien"
    return Path(base).expanduser().resolve()


def runs_home() -> Path:
    """`$MIEN_RUNS`, or `runs/` in the current folder."""
    return Path(os.environ.get("MIEN_RUNS") or "runs").expanduser().resolve()


def unusable(error: OSError) -> str | None:
    """What to set where the folder of the runs or of the cache is what failed: it cannot be made, or not be written to."""
    if not isinstance(error.filename, str | bytes):
        return None
    file = Path(os.path.abspath(os.fsdecode(error.filename)))
    for variable, what, home in (("MIEN_RUNS", "run folders", runs_home()), ("MIEN_CACHE", "cache", _cache())):
        within = home in file.parents and not (home.is_dir() and os.access(home, os.W_OK | os.X_OK))
        if within or file == home or file in home.parents:
            why = "it is a file" if home.is_file() else error.strerror
            return f"cannot keep the {what} in {home} ({why}); set {variable} to a folder you can write to"
    return None
