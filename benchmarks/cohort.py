"""Peak memory of building a cohort and encoding its windows, for growing numbers of windows, each in a fresh process.

Constant memory means: the rows' peaks differ by far less than their tokens' sizes do. The peer, in the same run, is
what a first attempt would do: keep every window and every document in Python lists.

    python benchmarks/cohort.py [--windows 10000 100000]
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

CHILD = "--child"


def child(kind: str, windows: int) -> None:
    import numpy as np

    from mien.core.config import Plugin
    from mien.core.records import Cohort, CohortCard, Recording, Signal, StreamSpec, cut, recording_windows
    from mien.generation.layout import Layout
    from mien.generation.tokens import Documents

    spec = {"acc": StreamSpec(channels=("x", "y", "z"), unit="g", rate_hz=50.0, range=(-8.0, 8.0))}
    card = CohortCard(name="bench", licence="none", consent="simulated", tasks={"t": ("a", "b")}, streams=spec)
    each = 100  # windows of 4 s, every 2 s, from recordings of 202 s

    def recordings():
        rng = np.random.default_rng(0)
        for i in range(windows // each):
            values = rng.normal(size=(50 * (2 * each + 2), 3)).astype(np.float32)
            yield Recording(
                id=f"r{i}", person=f"p{i // 4}", labels={"t": "ab"[i % 2]},
                streams={"acc": Signal(values=values, rate_hz=50.0, channels=("x", "y", "z"), unit="g")},
            )  # fmt: skip

    import scipy.fft  # noqa: F401  (imports are not the cohort's memory)

    layout = Layout.of(card, seconds=4.0, task="t", codec=Plugin(name="transform"))
    with tempfile.TemporaryDirectory() as folder:
        os.environ["MIEN_CACHE"] = folder
        warm = Cohort.build([next(iter(recordings()))], card=card, cache=Path(folder), key="warm")
        Documents.encode(warm, layout, stride_s=2.0, quiet=True)
        before, watch = anonymous(), Peak()
        began = time.perf_counter()
        if kind == "mien":
            cohort = Cohort.build(recordings(), card=card, cache=Path(folder), key="bench")
            built = time.perf_counter()
            documents = Documents.encode(cohort, layout, stride_s=2.0, quiet=True)
            count, size = len(documents), documents.ids.nbytes
        else:
            kept = [(r, w, cut(r, w)[0]) for r in recordings() for w in recording_windows(r, 4.0, 2.0)]
            built = time.perf_counter()
            made = [layout.encode([streams], [str(r.labels["t"])])[0] for r, _, streams in kept]
            lists = [m.tolist() for m in made if m is not None]
            count, size = len(lists), 2 * sum(map(len, lists))
        done = time.perf_counter()
        print(f"{count} {size} {before} {watch.most} {built - began} {done - built}")


class Peak(threading.Thread):
    """The highest anonymous resident memory seen, sampled every 10 ms, in bytes.

    Mapped file pages (RssFile) are left out: the kernel drops them whenever memory is short.
    """

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.most = 0
        self.start()

    def run(self) -> None:
        while True:
            self.most = max(self.most, anonymous())
            time.sleep(0.01)


def anonymous() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) * 1024
    raise SystemExit("this benchmark reads /proc/self/status (Linux)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--windows", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--peer-most", type=int, default=100_000, help="largest size the in-memory peer is run at")
    args = parser.parse_args()
    print(f"{'':<8}{'windows':>10}{'tokens MiB':>12}{'peak MiB':>10}{'above start':>13}{'build s':>9}{'encode s':>10}")
    for kind in ("mien", "lists"):
        for windows in args.windows:
            if kind == "lists" and windows > args.peer_most:
                continue
            run = subprocess.run(
                [sys.executable, __file__, CHILD, kind, str(windows)], check=True, capture_output=True, text=True
            )
            count, size, before, after, built, encoded = map(float, run.stdout.split()[-6:])
            mib = 1 << 20
            print(
                f"{kind:<8}{count:>10.0f}{size / mib:>12.1f}{after / mib:>10.0f}{(after - before) / mib:>13.0f}"
                f"{built:>9.1f}{encoded:>10.1f}",
                flush=True,
            )


if __name__ == "__main__":
    if sys.argv[1:2] == [CHILD]:
        child(sys.argv[2], int(sys.argv[3]))
    else:
        main()
