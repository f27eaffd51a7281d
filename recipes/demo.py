"""The whole loop on real smart-watch recordings of ten persons, plain and private, each step its own command."""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

from mien.core import assets, config, console, verbs
from mien.core.errors import MienError

STEPS = (
    ("pretrain", "pretrain a tiny base model on simulated movement, no person involved", 4.0),
    ("adapt", "LoRA-adapt it to the recordings of five of the ten persons", 1.5),
    ("generate", "sample 100 synthetic windows of each of the seven exercises", 0.5),
    ("attack", "try to find out who was in the training data, and whom the synthetic recordings resemble", 2.0),
    ("evaluate", "train on synthetic, test on the five other persons; fidelity; the privacy–utility picture", 1.5),
    (
        "dpo",
        "simulated raters compare its windows, and it learns what they prefer; coverage and leakage, looked at again",
        2.0,
    ),
    ("adapt_private", "the same with person-level differential privacy, on the same five persons", 1.0),
    ("generate_private", "synthetic windows from the private adapter", 0.5),
    ("attack_private", "the same attackers on it", 2.0),
    ("evaluate_private", "plain and private side by side (five persons: it shows the mechanics, not the utility)", 1.5),
)
VERBS = {"dpo": "align"}  # of steps that are not named after theirs


def planned(home: Path) -> list[tuple[str, str, str, float]]:
    """(step, verb, what it does, minutes) of a study's folder; a private twin or an alignment is done where it has one."""
    extra = {s for s, *_ in STEPS if "_" in s or s in VERBS}
    steps = [s for s in STEPS if s[0] not in extra or (home / f"{s[0]}.yaml").exists()]
    return [(step, VERBS.get(step, step.partition("_")[0]), what, minutes) for step, what, minutes in steps]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="mien demo", description=__doc__, epilog="Run it again to reuse what is finished; --fresh starts over."
    )
    parser.add_argument("--study", default="watch", help="a folder of recipes (default: watch)")
    parser.add_argument("--seed", type=int, default=0, help="of everything random")
    parser.add_argument("--fresh", action="store_true", help="reuse nothing")
    args = parser.parse_args(argv)
    home = config.find_recipe(f"recipes/{args.study}/adapt.yaml").parent
    steps = planned(home)
    files = {step: config.find_recipe(f"recipes/{args.study}/{step}.yaml") for step, *_ in steps}
    if args.study == "watch":
        assets.fetch("watch")
    console.say("What will happen, with about how long each step takes on two quiet cores:")
    for i, (step, _, what, minutes) in enumerate(steps, 1):
        console.say(f"  {i}. {step:<16} ~{minutes:3.1f} min   {what}")
    console.say(
        f"  together about {sum(m for *_, m in steps):.0f} minutes; stop it at any time, it continues where it was"
    )
    began = time.monotonic()
    for i, (step, verb, what, _) in enumerate(steps, 1):
        console.say(f"\n[{i}/{len(steps)}] {step}: {what}")
        command = [sys.executable, "-m", "mien.cli", verb, str(files[step]), "--seed", str(args.seed)]
        if step == "adapt_private":
            command.append(f"split.same_as=adapt-{args.study}")  # the plain run's persons, so that the two compare
        if subprocess.run([*command, *(["--fresh"] if args.fresh else [])]).returncode:
            raise MienError(f"the step {step} did not finish (see above); run `mien demo` again to continue there")
    console.say(f"\nthe whole loop took {console.duration(time.monotonic() - began)}")
    return 0


if __name__ == "__main__":
    raise SystemExit(verbs.guard(main))
