"""How quickly the command line answers, as ratios to `python -c "import torch"` measured in the same rounds.

python benchmarks/startup.py [--rounds 7]
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time

COMMANDS = {
    "import torch": [sys.executable, "-c", "import torch"],
    "import mien": [sys.executable, "-c", "import mien"],
    "import mien.core.records": [sys.executable, "-c", "import mien.core.records"],
    "mien --help": [sys.executable, "-m", "mien.cli", "--help"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    seconds: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for number in range(rounds + 1):  # the first round warms the file cache and is not counted
        for name, command in COMMANDS.items():
            began = time.perf_counter()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            if number:
                seconds[name].append(time.perf_counter() - began)
    print(f"{'command':<28}{'median s':>10}{'ratio to import torch':>24}{'[min, max]':>18}")
    for name, values in seconds.items():
        ratios = [v / t for v, t in zip(values, seconds["import torch"], strict=True)]
        spread = f"[{min(ratios):.3f}, {max(ratios):.3f}]"
        print(f"{name:<28}{statistics.median(values):>10.3f}{statistics.median(ratios):>24.3f}{spread:>18}")


if __name__ == "__main__":
    main()
