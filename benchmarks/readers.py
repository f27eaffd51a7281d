"""How quickly WESAD is read from copies of a chosen size, in MB of source per second, and in how much memory.

Invented recordings in the official layout are written to a temporary folder, as pickles of Python 2 (protocol 0, whose bytes
are escaped text; the real files' protocol was not compared). 15 persons of 100 minutes are the length of the real ones:
--persons 15 --minutes 100 takes some 16 GB of disk, and the cache 6 more. Each reader runs in a fresh process. The peers, in the same run,
are what a first script would do: `pickle.load`, which would run whatever the file says, and a mask per condition; and, for
the wristband's archives, csv rows turned into numbers one by one.

    python benchmarks/readers.py [--persons 3] [--minutes 20] [--folder DIR]
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import resource
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path
from typing import IO, Any

COURSE = ((0, 0.1), (1, 0.3), (0, 0.1), (2, 0.2), (0, 0.05), (3, 0.1), (4, 0.1), (0, 0.05))  # label, share of the time
BEGAN = 1495438741.0  # 9:39:01 in Germany on 22 May 2017
ROWS = ("mien, wrist", "mien, both", "mien, again from its cache", "mien, e4", "pickle.load, wrist", "csv rows, e4")


def write(folder: Path, persons: int, minutes: float) -> None:
    """S2 … with pickle, archive, times and readme. Noise: what it compresses to is on the safe side."""
    import numpy as np

    seconds = int(60 * minutes)
    rng = np.random.default_rng(0)
    label = np.repeat([c for c, _ in COURSE], [round(700 * seconds * s) for _, s in COURSE]).astype(np.int32)
    n, edges = len(label), np.cumsum([0, *(s for _, s in COURSE)]) * seconds

    def clock(s: float) -> str:
        return f"{int(s) // 60}.{int(s) % 60:02d}"

    for person in range(2, 2 + persons):
        home = folder / f"S{person}"
        home.mkdir(parents=True)
        wrist = {k: rng.normal(size=(r * seconds, c)) for k, r, c in (("BVP", 64, 1), ("EDA", 4, 1), ("TEMP", 4, 1))}
        wrist["ACC"] = rng.integers(-64, 64, (32 * seconds, 3)).astype(np.float64)
        chest: dict = {k: rng.normal(size=(n, 1)) for k in ("ECG", "EMG", "EDA", "Resp")}
        chest |= {"ACC": rng.normal(size=(n, 3)), "Temp": rng.normal(size=(n, 1)).astype(np.float32)}
        whole = {"subject": f"S{person}", "label": label, "signal": {"chest": chest, "wrist": wrist}}
        with open(home / f"S{person}.pkl", "wb") as f:
            python2(f, whole)
            f.write(b".")
        with zipfile.ZipFile(home / f"S{person}_E4_Data.zip", "w", zipfile.ZIP_DEFLATED) as z:
            for name, rate in (("ACC", 32), ("BVP", 64), ("EDA", 4), ("TEMP", 4)):
                head = "\n".join(", ".join([f"{x:f}"] * wrist[name].shape[1]) for x in (BEGAN, rate))
                z.writestr(
                    f"{name}.csv", head + "\n" + "\n".join(",".join(f"{x:.2f}" for x in row) for row in wrist[name])
                )
        at = {c: (a, b) for (c, _), a, b in zip(COURSE, edges[:-1], edges[1:], strict=True)}
        order = (("Base", 1), ("TSST", 2), ("Fun", 3), ("Medi 1", 4))
        times = [";".join(clock(at[c][i]) for _, c in order) for i in (0, 1)]
        (home / f"S{person}_quest.csv").write_text(
            f"# Subj;S{person}\n# ORDER;{';'.join(x for x, _ in order)}\n# START;{times[0]}\n# END;{times[1]}\n"
        )
        header = json.dumps({"00": {"date": "2017-5-22", "time": "9:39:1.0"}})
        (home / f"S{person}_respiban.txt").write_text(f"# OpenSignals Text File Format\n# {header}\n# EndOfHeader\n")
        (home / f"S{person}_readme.txt").write_text("Age: 25\nGender: male\n")


def python2(f: IO[bytes], x: Any) -> None:
    """What Python 2 and its numpy write of dicts, text and arrays, protocol 0 (Python 3 writes bytes otherwise)."""
    if isinstance(x, dict):
        f.write(b"(d")
        for key, value in x.items():
            python2(f, key)
            python2(f, value)
            f.write(b"s")
    elif isinstance(x, str):
        f.write(f"S{x!r}\n".encode())
    else:
        f.write(b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR(I1\n(")
        f.write(
            b"".join(b"I%d\n" % n for n in x.shape) + b"tcnumpy\ndtype\n(S'%s'\nI0\nI1\n" % x.dtype.str[1:].encode()
        )
        f.write(b"tR(I3\nS'<'\nNNNI-1\nI-1\nI0\ntbI00\n" + b"S" + repr(x.tobytes())[1:].encode() + b"\ntb")


def child(row: str, root: Path) -> None:
    """One reader in this process: seconds, peak memory of it and of its largest child, and samples it kept."""
    import numpy as np

    if row.startswith("mien"):
        import datasets  # noqa: F401  (imports are not the reader's time)
        import pyarrow.parquet  # noqa: F401

        from mien.core import console
        from mien.data.datasets import wesad

        console.quiet()
        began = time.perf_counter()
        device = "both" if "both" in row or "cache" in row else "wrist"
        cohort = wesad.load(wesad.Config(root=str(root), device=device, source="e4" if "e4" in row else "pickle"))
        took = time.perf_counter() - began
        kept = sum(s.values.size for r in cohort for s in r.signals.values())
    else:
        began, kept, made = time.perf_counter(), 0, {}
        for home in sorted(root.glob("S*")):
            if "pickle" in row:
                with open(home / f"{home.name}.pkl", "rb") as f:
                    whole = pickle.load(f, encoding="latin1")  # noqa: S301  (the benchmark wrote it a moment ago)
                for condition in (1, 2, 3, 4):
                    inside = np.flatnonzero(whole["label"] == condition) / 700
                    for name, rate in (("ACC", 32), ("BVP", 64), ("EDA", 4), ("TEMP", 4)):
                        cut = whole["signal"]["wrist"][name][int(inside[0] * rate) : int(inside[-1] * rate)]
                        made[f"{home.name} {condition} {name}"] = cut
            else:
                with zipfile.ZipFile(home / f"{home.name}_E4_Data.zip") as z:
                    for name in z.namelist():
                        lines = z.read(name).decode().splitlines()[2:]
                        made[f"{home.name} {name}"] = np.array([[float(x) for x in line.split(",")] for line in lines])
        np.savez(root.parent / f"peer-{os.getpid()}.npz", allow_pickle=False, **made)
        took, kept = time.perf_counter() - began, sum(v.size for v in made.values())
    own, below = (resource.getrusage(w).ru_maxrss / 1024 for w in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    print(json.dumps({"seconds": took, "own": own, "below": below, "kept": kept}))


def size(root: Path, end: str) -> float:
    return sum(f.stat().st_size for f in root.rglob(f"*{end}")) / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--persons", type=int, default=3)
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument(
        "--folder", help="where the copies are written and removed (default: the system's temporary folder)"
    )
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        if args.child[0] == "write":
            write(Path(args.child[1]), args.persons, args.minutes)
        else:
            child(args.child[0], Path(args.child[1]))
        return
    with tempfile.TemporaryDirectory(dir=args.folder, prefix="mien-readers-") as folder:
        root = Path(folder) / "WESAD"
        command = [sys.executable, __file__, "--persons", str(args.persons), "--minutes", str(args.minutes), "--child"]
        subprocess.run([*command, "write", str(root)], check=True)  # or its memory would be counted as the readers'
        sizes = {end: size(root, end) for end in (".pkl", ".zip")}
        print(
            f"{args.persons} persons of {args.minutes:g} min: pickles {sizes['.pkl']:.0f} MB, archives {sizes['.zip']:.0f} MB"
        )
        print(
            f"{'reader':<30}{'s':>8}{'MB/s':>8}{'peak MB':>10}{'its child':>11}{'million samples':>17}{'times the peer':>16}"
        )
        found = {}
        for row in ROWS:
            done = subprocess.run(
                [*command, row, str(root)], capture_output=True, text=True, check=True,
                env={**os.environ, "MIEN_CACHE": str(Path(folder) / "cache")},
            )  # fmt: skip
            found[row] = json.loads(done.stdout.splitlines()[-1])
        for row, f in found.items():
            mb, peer = (sizes[".zip"], ROWS[5]) if "e4" in row else (sizes[".pkl"], ROWS[4])
            ratio = f["seconds"] / found[peer]["seconds"]
            print(
                f"{row:<30}{f['seconds']:>8.2f}{mb / f['seconds']:>8.1f}{f['own']:>10.0f}{f['below']:>11.0f}"
                f"{f['kept'] / 1e6:>17.2f}{ratio:>16.2f}"
            )


if __name__ == "__main__":
    main()
