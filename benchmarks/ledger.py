"""The ledger with 100,000 entries: appending, opening, verifying, and what one more reservation costs.

Half of the entries reserve, half settle, over overlapping cohorts. `reserve` and `settle` are timed one transaction
each, flushed to disk, as a run makes them; the bulk is written in one transaction by the same inner function.

    python benchmarks/ledger.py [--entries 100000] [--cohorts 20] [--persons 1000]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from mien.privacy.accounting import Event, rdp
from mien.privacy.ledger import Ledger


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--entries", type=int, default=100_000)
    parser.add_argument("--cohorts", type=int, default=20)
    parser.add_argument(
        "--persons", type=int, default=1000, help="persons of a cohort; each takes half of the next one"
    )
    parser.add_argument("--single", type=int, default=200, help="entries appended one by one")
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    rdp([event(1)])  # importing dp-accounting is not the ledger's time
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ledger.sqlite"
        cohorts = [
            [f"p{p}" for p in range(c * args.persons // 2, c * args.persons // 2 + args.persons)]
            for c in range(args.cohorts)
        ]
        with Ledger.open(path) as ledger:
            for c, persons in enumerate(cohorts):
                ledger.reserve(run=f"c{c}", source="bench", persons=persons, events=[event(400)], delta=1e-5)
            pattern = [e for e in ledger.export() if e["kind"] == "reserve"]
            hashes = list(ledger._state.sets)
            began = time.perf_counter()
            for i in range(args.single // 2):
                persons = cohorts[i % len(cohorts)]
                ledger.reserve(run=f"s{i}", source="bench", persons=persons, events=[event(400)], delta=1e-5)
                ledger.settle(f"s{i}", [event(int(rng.integers(400)))])
            show("append one (flushed)", (time.perf_counter() - began) / args.single)
            left = args.entries - ledger.head()[0]
            began = time.perf_counter()
            with ledger._writing():
                for i in range(left // 2):
                    c = i % len(hashes)
                    what: dict[str, Any] = {
                        "source": "bench", "sources": ["bench"], "set": hashes[c], "n": pattern[c]["persons"],
                        "events": [event(int(rng.integers(400, 2000))).to_json()], "delta": 1e-5, "cap": None,
                        "note": f"trial {i}", "alias": None,
                    }  # fmt: skip
                    ledger._append("reserve", f"b{i}", what)
                    ledger._append("settle", f"b{i}", {"events": [event(int(rng.integers(400))).to_json()]})
            show(f"append {left} in bulk", time.perf_counter() - began)
        opened = timed("open, walking the chain", lambda: Ledger.open(path))
        problems = timed("verify", opened.verify)
        assert not problems, problems
        timed("first reservation after opening", lambda: reserve(opened, "x", cohorts[0]))
        timed("the next one", lambda: reserve(opened, "y", cohorts[1]))
        timed("spent, by the filter", lambda: opened.spent(pld=False))
        print(f"{opened.head()[0]} entries, {sum(f.stat().st_size for f in path.parent.iterdir()) / 2**20:.1f} MiB")
        opened.close()


def event(steps: int) -> Event:
    return Event(sample_rate=0.01, noise_multiplier=2.0, steps=steps)


def reserve(ledger: Ledger, run: str, persons: list[str]) -> None:
    ledger.reserve(run=run, source="bench", persons=persons, events=[event(400)], delta=1e-5)


def timed(label: str, action: Callable[[], Any]) -> Any:
    began = time.perf_counter()
    out = action()
    show(label, time.perf_counter() - began)
    return out


def show(label: str, seconds: float) -> None:
    print(f"{label:<36}{seconds:>10.4f} s", flush=True)


if __name__ == "__main__":
    main()
