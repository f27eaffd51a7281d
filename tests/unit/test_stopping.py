"""Ctrl-C ends a verb with one line and exit code 130, whenever it or its repetition arrives."""

from __future__ import annotations

import os
import signal

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
