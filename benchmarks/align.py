"""What alignment to simulated experts gains on the simulated study: DPO, PPO and reward models, of the same 200 pairs.

python benchmarks/align.py [--seeds 9] [--rows dpo ppo reward] [--override dpo.lr=1e-3 …]

Needs the adapter of `mien adapt recipes/simulated/adapt.yaml`. Each row is `mien align` with a shipped recipe and one seed, which
decides the samples, the raters' answers, what is held out, and the training; choose settings by other seeds than those that are
told. A run that is there already is read again, so that a stopped table goes on. The figures are of simulated raters
(alignment/experts.py), who are a program with a few rules.
"""

from __future__ import annotations

import argparse
import hashlib
import subprocess
import sys
import time
from pathlib import Path

from mien.core import runs
from mien.core.errors import MienError
from mien.core.results import Report, Result

HERE = Path(__file__).resolve().parent
ROWS = ("dpo", "ppo", "reward")
MEASURES = (
    "raters' agreement α", "expert utility gain", "expert utility gain, held-out terms", "win rate against before",
    "coverage kept", "valid sequences",
    "KL to the reference", "held-out answers ordered right", "reward accuracy on held-out answers",
    "reward accuracy on held-out answers: linear model on vital signs", "rise of membership AUC", "preference attack AUC",
)  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[9])
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument(
        "--override", nargs="*", default=[], metavar="key=value", help="for every row, to look for settings"
    )
    args = parser.parse_args()
    print(f"| row | seed | minutes | {' | '.join(MEASURES)} |")
    print("|" + "---|" * (3 + len(MEASURES)))
    for row in args.rows:
        for seed in args.seeds:
            start = time.monotonic()
            found = measured(row, seed, args.override)
            cells = [said(found.get(m)) for m in MEASURES]
            print(f"| {row} | {seed} | {(time.monotonic() - start) / 60:.1f} | {' | '.join(cells)} |", flush=True)
    return 0


def measured(row: str, seed: int, more: list[str]) -> dict[str, Result]:
    """The results of one run, by metric. A passed bound (exit code 3) is a result too; MienError for what did not run."""
    recipe = f"recipes/simulated/{row}.yaml"
    asked = (HERE.parent / recipe).read_text() + repr(more)
    study = f"benchmark_{row}_{seed}_{hashlib.sha256(asked.encode()).hexdigest()[:6]}"
    command = [
        sys.executable, "-m", "mien.cli", "align", recipe, f"study={study}", f"seed={seed}",
        *more,
    ]  # fmt: skip
    done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False)
    if done.returncode not in (0, 3):
        raise MienError(f"{row}, seed {seed}: `mien align` ended with {done.returncode}: {done.stderr[-500:]}")
    report = Report.read(runs.find(f"align-{study}", "align") / "release" / "report.json")
    return {r.metric: r for r in report.results}


def said(r: Result | None) -> str:
    """value [low, high], or a dash."""
    if r is None or r.value is None:
        return "–"
    return f"{r.value:.3f}" + (f" [{r.low:.3f}, {r.high:.3f}]" if r.low is not None and r.high is not None else "")


if __name__ == "__main__":
    sys.exit(main())
