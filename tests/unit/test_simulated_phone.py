"""A phone in the lab: what its log carries at which switch, and that nothing else of the recording moves beside it."""

from __future__ import annotations

import numpy as np
import pytest

from mien.core.errors import MienError
from mien.core.records import Events, Recording
from mien.data.datasets import simulated_life as life
from mien.data.datasets import simulated_phone as phone

from .test_simulated_life import NONE, contrast, same

SMALL = {"persons": 2, "sessions": 2, "seconds": 10.0}


def log_of(r: Recording) -> Events:
    s = r.streams["phone"]
    assert isinstance(s, Events)
    return s


def made(persons: int, *streams: str, **options) -> tuple[list[life.Life], list[dict[str, float]], list[Recording]]:
    config = phone.Config(persons=persons, streams=streams, **options)
    both = [x for p in range(persons) for x in zip(life.lives(config, p), phone.uses(config, p), strict=True)]
    return [a for a, _ in both], [b for _, b in both], [phone.record(a, b, config) for a, b in both]


@pytest.mark.parametrize("missing", [0.0, 0.4])
def test_the_other_streams_are_simulated_lifes_to_the_bit(home, missing):
    """With the phone, without it, and where none is named: all of them."""
    plain = list(life.load(life.Config(**SMALL, missing=missing)))
    whole = phone.load(phone.Config(**SMALL, missing=missing))
    assert list(whole.card.streams) == [*life.STREAMS["lab"], "phone"]
    without = phone.load(phone.Config(**SMALL, missing=missing, streams=tuple(life.STREAMS["lab"])))
    for r, some, theirs in zip(whole, without, plain, strict=True):
        about = ("id", "person", "session", "labels", "attributes", "start_s")
        assert all(getattr(r, k) == getattr(theirs, k) for k in about)
        rest = Recording(id="x", person="x", streams={n: s for n, s in r.streams.items() if n != "phone"})
        assert same(rest, theirs)
        assert same(some, theirs)
    assert phone.load(phone.Config(**SMALL, missing=missing)).fingerprint == whole.fingerprint


def test_a_log_depends_on_seed_person_and_session_only():
    def one(person: int, session: int, persons: int = 2, **options) -> Recording:
        config = phone.Config(persons=persons, **{"streams": ("phone",), "seconds": 60.0, **options})
        r = phone.record(life.lives(config, person)[session], phone.uses(config, person)[session], config)
        return Recording(id="x", person="x", streams={"phone": r.streams["phone"]})

    assert same(one(1, 2), one(1, 2, persons=5))
    assert same(one(1, 2), one(1, 2, streams=("eda", "phone")))
    assert not any(same(one(1, 2), other) for other in (one(1, 1), one(0, 2), one(1, 2, seed=1)))


def test_it_is_whole_seconds_inside_the_recording_and_one_screen_at_a_time():
    _, _, recordings = made(30, "phone", seconds=25.5, **{"person_effect": 2.0})
    seen: set[int] = set()
    for log in map(log_of, recordings):
        assert log.party is not None
        ends = log.times_s + log.durations_s
        assert np.array_equal(log.times_s, np.floor(log.times_s))
        assert np.array_equal(log.durations_s, np.floor(log.durations_s))
        assert log.seconds == 25.5
        assert (ends <= 25).all()
        on = log.codes == phone.SCREEN
        assert (log.times_s[on][1:] >= ends[on][:-1]).all()
        for code in (phone.APP, phone.SENT):  # while it is on
            for a, b in zip(log.times_s[log.codes == code], ends[log.codes == code], strict=True):
                assert ((log.times_s[on] <= a) & (b <= ends[on])).any()
        assert np.array_equal(log.party >= 0, np.isin(log.codes, [phone.RECEIVED, phone.SENT, phone.CALL]))
        seen |= set(log.codes.tolist())
    assert seen == set(range(5))


@pytest.mark.parametrize("effect", [2.0, 0.0])
def test_messages_and_calls_are_as_many_as_their_traits_say_and_looks_tell_the_label(effect):
    """Poisson: within 4 of its own standard deviations; the classes differ in how often the screen goes on and how long it
    stays on, or, at effect 0, in nothing."""
    lives, use, recordings = made(60, "phone", seconds=120.0, label_effect=effect)
    v = [phone.values(u) for u in use]
    count = np.array([np.bincount(log_of(r).codes, minlength=5) for r in recordings])
    for code, name in ((phone.RECEIVED, "received"), (phone.CALL, "calls")):
        expected = sum(2 * x[name] for x in v)
        assert abs(count[:, code].sum() - expected) < 4 * np.sqrt(expected), name
    mean = [log_of(r).durations_s[log_of(r).codes == phone.SCREEN].mean() for r in recordings]
    for found, sign in ((count[:, phone.SCREEN], 1), (mean, -1)):
        difference, error = contrast(lives, found)
        assert (sign * difference > 4 * error) if effect else (abs(difference) < 4 * error)


@pytest.mark.parametrize(("switch", "size"), [({}, 0.0), ({"person_effect": 1.0}, 1.0), ({"label_effect": 2.0}, 0.0)])
def test_persons_differ_at_their_switch_alone(switch, size):
    config = phone.Config(persons=200, **{**NONE, **switch})
    z = np.array([[list(x.values()) for x in phone.uses(config, p)] for p in range(200)])  # [person, session, trait]
    assert z.mean(1).std(0, ddof=1) == pytest.approx(size, rel=4.5 * np.sqrt(1 / 398))
    stress = np.array([[x.label for x in life.lives(config, p)] for p in range(200)])
    label = [t.label * switch.get("label_effect", 0.0) for t in phone.PHONE.values()]
    assert z[stress].mean(0) - z[~stress].mean(0) == pytest.approx(label, abs=1e-9 if not size else 0.5)


@pytest.mark.parametrize("coupling", [1.0, 0.0])
def test_a_message_lights_the_screen_while_coupled(coupling):
    """A second after: with a chance of 0.6, and else no more often than in any other second."""
    _, _, recordings = made(60, "phone", seconds=60.0, coupling=coupling)
    lit, free = [], []
    for log in map(log_of, recordings):
        on = set(log.times_s[log.codes == phone.SCREEN].tolist())
        came = log.times_s[log.codes == phone.RECEIVED]
        lit += [t + 1 in on for t in came.tolist() if t < 59]
        free += [t in on for t in range(60) if t - 1 not in came]
    error = np.sqrt(0.25 / len(lit))
    by_chance = np.mean(free)
    expected = phone.ANSWERED * coupling + (1 - phone.ANSWERED * coupling) * by_chance
    assert abs(np.mean(lit) - expected) < 5 * error


def test_it_goes_missing_like_any_stream():
    _, _, recordings = made(40, "phone", "eda", missing=0.5, seconds=10.0)
    share = np.mean(["phone" in r.streams for r in recordings])
    assert abs(share - 0.5) < 4 * 0.5 / np.sqrt(len(recordings))
    assert all(r.streams for r in recordings)
    _, _, alone = made(5, "phone", missing=0.9, seconds=10.0)
    assert all(list(r.streams) == ["phone"] for r in alone)


@pytest.mark.parametrize(
    ("options", "says"), [({"mode": "days"}, "use mode: lab"), ({"streams": ("fone",)}, "no stream 'fone'")]
)
def test_bad_input(home, options, says):
    with pytest.raises(MienError, match=says):
        phone.load(phone.Config(**options))
