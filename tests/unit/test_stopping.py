"""Ctrl-C ends a verb with one line and exit code 130, whenever it or its repetition arrives."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mien.core import verbs

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)


def stopped() -> None:
    os.kill(os.getpid(), signal.SIGINT)
    while True:  # the handler raises between two of these
        pass


@pytest.mark.parametrize("again", [0, 1, 3])
def test_a_repetition_while_the_handlers_are_taken_off(monkeypatch, capsys, again):
    before = [signal.getsignal(s) for s in SIGNALS]
    set_timer, left = signal.setitimer, [again]

    def timer(which, seconds, *rest):
        done = set_timer(which, seconds, *rest)
        if seconds == 0 and left[0]:
            left[0] -= 1
            signal.getsignal(signal.SIGALRM)(signal.SIGALRM, None)  # as if the alarm were delivered here
        return done

    monkeypatch.setattr(signal, "setitimer", timer)
    assert verbs.guard(stopped) == 130
    assert "run the same command again" in capsys.readouterr().err
    assert [signal.getsignal(s) for s in SIGNALS] == before
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
    assert left == [0]


def test_a_stop_within_generated_code_keeps_the_exit_code(tmp_path):
    """Data classes and named tuples are made by exec() of a string; importing libraries makes many."""
    (tmp_path / "stopped_there.py").write_text(
        "from mien.core import verbs\n\n\ndef main():\n    exec('raise KeyboardInterrupt')\n\n\n"
        "raise SystemExit(verbs.guard(main))\n"
    )
    root = Path(__file__).resolve().parents[2]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(root / ".typing"), str(tmp_path)])}
    done = subprocess.run([sys.executable, "-m", "stopped_there"], env=env, capture_output=True, text=True)
    assert done.returncode == 130, done.stderr
    assert "run the same command again" in done.stderr


def test_a_verb_may_say_in_its_own_words_what_a_stop_costs(capsys):
    def main():
        with verbs.stopped("stopped; begins again"):
            raise KeyboardInterrupt

    assert verbs.guard(main) == 130
    assert "begins again" in capsys.readouterr().err
