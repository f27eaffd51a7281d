"""What is said of an adapter after alignment: coverage kept, leakage, bounds, and who saw real recordings."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from mien.alignment import judged, preferences, rounds
from mien.alignment.judged import Bounds, result
from mien.alignment.preferences import Preference
from mien.attacks import again
from mien.core.errors import MienError
from mien.core.intervals import Interval, auc
from mien.core.records import Cohort, Recording, Signal
from mien.core.results import Report
from mien.core.verbs import PLAIN, UNCOVERED
from mien.data.datasets import simulated
from mien.evaluation import kept

WINDOWS = {"seconds": 30, "stride_s": 30, "valid": 1.0, "seed": 0}


@pytest.fixture(scope="module")
def people():
    """Real, and other people's, who stand for a good generator's samples."""
    made = simulated.load(simulated.Config(persons=24, sessions=4, seconds=30, seed=3))
    real = made.select(lambda p: p in set(made.persons[:8]))
    others = [r for r in made if r.person in set(made.persons[8:])]
    return real, others


def still(r: Recording) -> Recording:
    """Flat lines: not one vital sign can be found."""
    return replace(
        r,
        streams={n: replace(s, values=np.zeros_like(s.values)) for n, s in r.streams.items() if isinstance(s, Signal)},
    )


def test_coverage_stays_where_samples_do(people):
    real, others = people
    was, now, share = kept.coverage(real, others[:32], others[32:], real.card, k=3, **WINDOWS)
    assert was.value > 0.3
    assert 0.5 < share.value < 2
    assert share.value == pytest.approx(now.value / was.value)
    assert share.low is not None


def test_samples_without_any_vital_sign_cover_nothing(people):
    """At the mean of what they lack they would lie in the middle of the real windows, and cover them."""
    real, others = people
    flat = [still(r) for r in others]
    was, now, share = kept.coverage(real, others, flat, real.card, k=3, **WINDOWS)
    assert was.value > 0.3
    assert now.value < 0.05
    assert share.value < 0.2


def test_few_windows_measure_no_coverage(people):
    real, others = people
    few: Cohort = real.select(lambda p: p == real.persons[0])
    assert "4 real windows" in kept.coverage(few, others, others, real.card, **WINDOWS)


def test_missing_signs_have_columns_of_their_own():
    real = np.array([[0.0, 1.0, 5.0], [2.0, np.nan, 5.0], [4.0, 3.0, 5.0], [6.0, 3.0, 5.0]])
    of, made = kept.on_one_scale(real, np.array([[np.nan, 1.0, 7.0]]))
    assert of.shape == (4, 4)  # the third never varies
    assert np.allclose(of[:, 0].std(), 1)
    assert of[1, 1] == 0  # missing: at the mean
    assert of[1, 3] == pytest.approx(0.75 / np.sqrt(0.1875))
    assert made[0, 2] == 8  # no real window lacks it
    assert np.isfinite(of).all()


def test_the_rise_of_leakage_is_of_the_same_persons():
    rng = np.random.default_rng(0)
    n = 60
    about = {
        "recording": [f"r{i}" for i in range(n)], "person": [f"p{i // 2}" for i in range(n)], "label": ["x"] * n,
        "member": [i < 30 for i in range(n)],
    }  # fmt: skip
    noise = rng.normal(size=n)
    base = {"loss_base": np.full(n, 2.0), "n_tokens": np.full(n, 10)}
    before, after = ({"loss": 2 + noise - gap * (np.arange(n) < 30), **base} for gap in (0.0, 1.0))
    was, now, rose = again.leakage(before, after, about, "m")
    score = -noise.reshape(-1, 2).mean(1)  # larger says member
    assert was.value == pytest.approx(auc(score[:15], score[15:]), abs=1e-6)
    assert rose.value == pytest.approx(now.value - was.value)
    assert rose.low is not None and 0 < rose.low < rose.value < rose.high  # noqa: PT018
    assert again.leakage(before, before, about, "m")[2].value == 0


FOUND = {
    "valid sequences": 1.0, "win rate against before": 0.7, "coverage kept": 0.95, "KL to the reference": 4.0,
    "rise of membership AUC": 0.01,
}  # fmt: skip


@pytest.mark.parametrize(
    ("bounds", "change", "wrong"),
    [
        ({}, {}, ""),
        ({"win_rate": 0.8}, {}, "win rate"),
        ({"coverage": 0.9}, {}, ""),
        ({"coverage": 0.96}, {}, "coverage kept"),
        ({"coverage": 0.9}, {"coverage kept": None}, "coverage kept was not measured"),
        ({"kl": 3.0}, {}, "KL"),
        ({"leakage": 0.0}, {}, "membership"),
        ({}, {"valid sequences": 0.99}, "valid"),
        ({}, {"valid sequences": None}, "valid sequences was not measured"),
    ],
)
def test_bounds(bounds, change, wrong):
    results = {
        n: result(n, None if v is None else Interval(value=v, low=None, high=None, n_persons=2))
        for n, v in (FOUND | change).items()
    }
    said = judged.passed(results, Bounds(**bounds))
    assert bool(said) == bool(wrong)
    assert wrong in " ".join(said)


def test_persons_answers_have_no_win_rate_and_a_reward_model_nothing_to_hold(tmp_path):
    some = [result("valid sequences", Interval(value=1.0, low=None, high=None, n_persons=2))]
    assert judged.passed({r.metric: r for r in some}, Bounds()) == []
    empty = Report(verb="align", run="r", study="s", config={}, data_fingerprint="", guarantee=PLAIN, environment={})
    empty.write(tmp_path / "report.json")
    assert judged.told("s", Bounds(), tmp_path) == 3  # nothing was measured, and something was asked for
    assert judged.told("s", None, tmp_path) == 0


def answer(i: int, **more) -> Preference:
    return Preference(**{"pair": f"q{i}", "a": f"x{i}", "b": f"y{i}", "rater": "ann", "choice": "A", **more})


@pytest.mark.parametrize(
    ("said", "real"),
    [
        (answer(1), False),
        (answer(1, kind="repeat"), False),
        (answer(1, kind="control"), True),
        (answer(1, kind="control", a="real:x1", b="real:x2", private=True), True),
        (answer(1, kind="control", b="broken:x1"), False),  # synthetic, in pieces
        (answer(1, recognised="x1", private=True), False),  # a rater's own knowledge; nobody learns from it
    ],
)
def test_who_saw_real_recordings(said, real):
    assert judged.shows_real(said) == real


def test_a_file_without_its_control_pairs_still_says_who_saw_them(tmp_path):
    said = [answer(i, rater=r) for i in (1, 2) for r in ("ann", "ben")]
    encode = lambda one: ("<p>", f"<{one}>")  # noqa: E731
    preferences.write(tmp_path / "one.jsonl", said, encode)
    preferences.write(tmp_path / "two.jsonl", said, encode, {"ben"})
    assert not judged.from_file(tmp_path / "one.jsonl", "m")[3]
    back, documents, people, saw = judged.from_file(tmp_path / "two.jsonl", "m")
    assert saw
    assert back == said
    assert documents["x1"] == ("<p>", "<x1>")
    assert people == {}
    rows = [json.loads(line) for line in (tmp_path / "two.jsonl").read_text().splitlines()]
    assert [r["rater"] for r in rows if r.get("saw_real")] == ["ben", "ben"]


@pytest.mark.parametrize("end", ["\u2028", "\u2029", "\u0085", "\x1e"])
def test_a_comment_may_hold_other_line_ends(tmp_path, end):
    preferences.write(tmp_path / "p.jsonl", [answer(1, comment=f"odd{end}really")], lambda one: ("<p>", f"<{one}>"))
    (back,), documents, *_ = judged.from_file(tmp_path / "p.jsonl", "m")
    assert back.comment == f"odd{end}really"
    assert set(documents) == {"x1", "y1"}


def written(path, *rows: dict):
    base = {
        "prompt": "<p>",
        "chosen": "<x1>",
        "rejected": "<y1>",
        "pair_id": "q1",
        "a": "x1",
        "b": "y1",
        "rater": "ann",
        "choice": "A",
    }
    path.write_text("".join(json.dumps(base | r) + "\n" for r in rows))
    return path


@pytest.mark.parametrize(
    ("second", "says"),
    [
        ({"rater": "ben", "chosen": "<y1>", "rejected": "<x1>"}, "line 2: recording 'x1' is another document here than in line 1"),
        ({"pair_id": "q2", "b": "y2", "rejected": "<y2>", "prompt": "<other>"}, "line 2: recording 'x1' is another document"),
        ({"rater": "ben", "cohort": "c2", "choice": "B", "chosen": "<y1>", "rejected": "<x1>"}, "line 2: .*another cohort"),
        ({"rater": "ben", "choice": "tie", "cohort": "c2"}, "line 2: .*another cohort"),
        ({"rater": "ben", "choice": "B", "chosen": "<y1>", "rejected": "<x1>"}, ""),
        ({"pair_id": "q2", "a": "y1", "b": "y2", "chosen": "<y1>", "rejected": "<y2>", "cohort": "c1"}, ""),
    ],
)  # fmt: skip
def test_a_recording_is_one_document(tmp_path, second, says):
    """Of two, the last would decide what all raters who judged it had said."""
    path = written(tmp_path / "p.jsonl", {"cohort": "c1"}, second)
    if says:
        with pytest.raises(MienError, match=says):
            judged.from_file(path, "m")
    else:
        assert judged.from_file(path, "m")[1]["y1"] == ("<p>", "<y1>")


def test_answers_about_another_models_samples_are_refused(tmp_path):
    preferences.write(tmp_path / "p.jsonl", [answer(1, model="other")])
    with pytest.raises(MienError, match="another model"):
        judged.from_file(tmp_path / "p.jsonl", "mine")


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"method": "ppo", "privacy": {"noise_multiplier": 1.0}}, "nothing else here is private"),
        ({"rounds": 2, "privacy": {"noise_multiplier": 1.0}}, "nothing else here is private"),
        ({"weigh": True, "privacy": {"noise_multiplier": 1.0}}, "every answer counts 1"),
        ({"dpo": {"fresh": 8}, "privacy": {"noise_multiplier": 1.0}}, "without noise"),
        ({"method": "reward", "rounds": 2}, "moves no adapter"),
        ({"method": "reward", "bounds": {"kl": 3.0}}, "bounds.kl"),
        ({"rounds": 2, "preferences": "p.jsonl"}, "one set of samples"),
        ({"preferences": "nowhere.jsonl"}, "cannot read the preferences"),
        ({"preferences": "p.jsonl", "bounds": {"win_rate": 0.4}}, "bounds.win_rate: .*nobody judges the new ones"),
        ({"dpo": {"turns": 3}}, "dpo.turns: .*dpo.fresh is 0"),
    ],
)
def test_what_cannot_be_asked(asked, says):
    with pytest.raises(MienError, match=says):
        rounds.Asked(**asked).inputs({"condition": {}})


class Half:
    """An expert who finds nothing in what is called silent, and else reads the utility off the name."""

    def utilities(self, recording):
        value = float("nan") if recording == "silent" else float(recording)
        return {"all": value, "vital": value, "held_out": float("nan") if recording == "-1" else -value}


def test_a_generator_that_falls_silent_does_not_win():
    of = lambda names: judged.Samples(documents=[], recordings=names, valid=1.0)  # noqa: E731
    before = of([str(-4 - k % 3) for k in range(20)])
    after = of(["silent" if k % 4 else "-1" for k in range(20)])
    gains, wins = judged.gained(before, after, Half())
    assert wins.value == 0.25  # the quarter that can be heard is better, and what cannot is worse than anything
    assert gains["all"].interval.value < 0
    assert gains["all"].after < gains["all"].before
    assert gains["held_out"].after == judged.experts.WORST  # nothing of these is left
    assert set(judged.gained(of(["-1"] * 20), before, Half())[0]) == {
        "all",
        "vital",
    }  # and of what never was, nothing is said
    with pytest.raises(MienError, match="nothing to judge"):
        judged.gained(of(["silent"] * 20), after, Half())


def test_a_round_counts_a_silent_sample_as_the_worst():
    of = lambda names: judged.Samples(documents=[], recordings=names, valid=1.0)  # noqa: E731
    heard = judged.utilities(of(["-2", "-1", "silent"]), Half())["all"]
    assert rounds._mean(heard).value == pytest.approx((-3 + judged.experts.WORST) / 3)
    assert rounds._mean(heard).low is not None
    assert judged.utilities(of(["silent"] * 3), Half()) == {}


@pytest.mark.parametrize(
    ("guarantee", "covered"), [("(8, 1e-5)-differential privacy for each person", False), (PLAIN, True)]
)
def test_no_epsilon_covers_what_the_second_look_measured(guarantee, covered):
    """Coverage and the attack are computed from the training persons' recordings, without noise."""
    todo = rounds.Rounds.__new__(rounds.Rounds)
    todo.asked, todo.plan, todo.claim, todo.saw_real, todo.tells, todo.results = (
        rounds.Asked(),
        None,
        "",
        False,
        False,
        [],
    )
    begun = {"verb": "adapt", "run": "r", "study": "s", "config": {}, "inputs": {}, "results": (), "environment": {}}
    adapter = Report(**begun, data_fingerprint="f", guarantee=guarantee)
    about = {k: v for k, v in begun.items() if k not in ("verb", "results")}
    caveats = todo.report(adapter, **about, data_fingerprint="f").caveats
    assert (UNCOVERED in caveats) == (not covered)


def test_whom_raters_recognised_flags_what_is_aligned(tmp_path):
    path = agreed(tmp_path / "p.jsonl", q0={"recognised": "x0", "private": True})
    todo = rounds.Rounds.__new__(rounds.Rounds)
    todo.asked = rounds.Asked(preferences=str(path))
    layout = type("Layout", (), {"vocabulary": type("Vocabulary", (), {"names": ()})()})()
    todo.opened = type("Opened", (), {"fingerprint": "m", "layout": layout})()
    todo.seed, todo.results, todo.saw_real, todo.tells, todo.claim, todo.plan = 0, [], False, False, "", None
    with pytest.raises(MienError, match="another vocabulary"):
        todo._heard(0)
    begun = {"verb": "adapt", "run": "r", "study": "s", "config": {}, "inputs": {}, "results": (), "environment": {}}
    about = {k: v for k, v in begun.items() if k not in ("verb", "results")}
    adapter = Report(**begun, data_fingerprint="f", guarantee=PLAIN)
    first = todo.report(adapter, **about, data_fingerprint="f").caveats[0]
    assert first.startswith("FLAGGED: raters recognised somebody in 1 recording")
    assert "x0" not in first


# --- before anything is sampled ----------------------------------------------------------------------------------------
def agreed(path, **more):
    """Two raters of one mind about twenty pairs, with rows of their own for some (`pair_id` -> what is said there too)."""
    return written(
        path,
        *(
            {"pair_id": f"q{i}", "a": f"x{i}", "b": f"y{i}", "rater": r, "choice": "A", "chosen": f"<x{i}>", "rejected": f"<y{i}>"}
            | more.get(f"q{i}", {})
            for i in range(20)
            for r in ("ann", "ben")
        ),
    )  # fmt: skip


WORDS: Any = SimpleNamespace(  # a layout that knows the words of `agreed`
    vocabulary=SimpleNamespace(names=["<p>", *(f"<{s}{i}>" for s in "xy" for i in range(20))]),
    grammar=SimpleNamespace(accepts=lambda ids: True),
)
RATERS = {"unit": "rater", "noise_multiplier": 1.0, "batch": 1}
PERSONS = {"unit": "person", "noise_multiplier": 1.0, "batch": 2}
OF = {f"q{i}": {"person": f"P{i % 4}", "private": True} for i in range(20)}


@pytest.mark.parametrize(
    ("asked", "more", "says"),
    [
        ({}, {}, ""),
        ({}, {"q3": {"private": True}}, "`method: dpo` without .* is not private, and the answers about 1 pairs"),
        ({"method": "reward"}, {"q3": {"private": True}}, "`method: reward` without"),
        ({}, {"q3": {"private": True, "choice": "tie"}}, ""),  # teaches nothing
        ({}, {"q3": {"private": True, "recognised": "x3"}}, ""),  # nor does this
        ({"privacy": RATERS}, {"q3": {"private": True}}, ""),
        ({"privacy": RATERS | {"batch": 3}}, {}, "privacy.batch: 3 raters per step of n = 2"),
        ({"privacy": {**RATERS, "unit": "recording"}}, {}, "not per recording"),
        ({"privacy": PERSONS}, {}, "name no person"),
        ({"privacy": PERSONS}, OF, ""),
        ({"privacy": PERSONS | {"batch": 5}}, OF, "privacy.batch"),
        ({"privacy": PERSONS}, OF | {"q7": {"person": "Q7"}, "q8": {"person": "Q8"}}, "tell of 2 persons whom this adapter was not"),
    ],
)  # fmt: skip
def test_what_may_not_be_learned_from_is_refused_before_anything_is_sampled(tmp_path, asked, more, says):
    todo = rounds.Asked(preferences=str(agreed(tmp_path / "p.jsonl", **more)), **asked)
    if says:
        with pytest.raises(MienError, match=says) as told:
            todo.heard("m", ["P0", "P1", "P2", "P3"], 0, WORDS)
        assert "Q7" not in str(told.value)
    else:
        todo.heard("m", ["P0", "P1", "P2", "P3"], 0, WORDS)


def test_too_few_simulated_raters_are_refused_before_anything_is_sampled():
    with pytest.raises(MienError, match="privacy.batch: 4 raters per step of n = 3"):
        rounds.Asked(privacy=RATERS | {"batch": 4}).heard("m", [], 0, WORDS)


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (["<p>"], "another vocabulary"), (["<p>", *(f"<x{i}>" for i in range(20))], "'<y0>' .*another vocabulary"),
        (["<p>", *(f"<{s}{i}>" for s in "xy" for i in range(19))], "another vocabulary"),
    ],
)  # fmt: skip
def test_a_file_of_another_vocabulary_is_refused_before_anything_is_sampled(tmp_path, names, says):
    layout = SimpleNamespace(vocabulary=SimpleNamespace(names=names), grammar=WORDS.grammar)
    with pytest.raises(MienError, match=says):
        rounds.Asked(preferences=str(agreed(tmp_path / "p.jsonl"))).heard("m", [], 0, layout)


@pytest.mark.parametrize(
    ("asked", "goes_on"), [({}, False), ({"rounds": 2}, False), ({"privacy": {"noise_multiplier": 1.0}}, True)]
)
def test_only_private_alignment_says_that_it_goes_on(asked, goes_on):
    said = rounds.Asked(**asked).stopped
    assert ("continue where it was" in said) == goes_on
    assert ("begins again" in said) != goes_on


@pytest.mark.parametrize(
    ("asked", "missing"),
    [
        ({}, ["run `mien attack`", "no attack looked at it"]),
        ({"preferences": "p.jsonl"}, ["nobody judged them", "run `mien attack`", "no attack looked at it"]),
        ({"method": "reward"}, ["no attack looked at it"]), ({"method": "reward", "preferences": "p.jsonl"}, ["no attack looked at it"]),
    ],
)  # fmt: skip
def test_what_was_not_measured_of_an_alignment(asked, missing):
    about = {"run": "r", "study": "s", "config": {}, "inputs": {}, "environment": {}, "data_fingerprint": "f"}
    todo = rounds.Rounds.__new__(rounds.Rounds)
    todo.asked, todo.results, todo.saw_real, todo.tells, todo.plan = rounds.Asked(**asked), [], False, False, None
    made = todo.report(Report(verb="adapt", results=(), guarantee=PLAIN, **about), **about)
    assert len(made.not_measured) == len(missing)
    assert all(words in said for words, said in zip(missing, made.not_measured, strict=True))


def test_a_file_of_answers_is_published_under_a_key(tmp_path, monkeypatch):
    """The bare hash would tell whoever guesses the answers that they guessed right; the run is found again all the same."""
    monkeypatch.setenv("MIEN_RUNS", str(tmp_path / "one"))
    path = agreed(tmp_path / "p.jsonl")
    todo = rounds.Asked(preferences=str(path))
    found = todo.inputs({"condition": {}})
    assert found == todo.inputs({"condition": {}})
    assert found["preferences"] != hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setenv("MIEN_RUNS", str(tmp_path / "two"))
    assert found != todo.inputs({"condition": {}})
    agreed(path, q3={"choice": "tie"})
    monkeypatch.setenv("MIEN_RUNS", str(tmp_path / "one"))
    assert found != todo.inputs({"condition": {}})


@pytest.mark.parametrize("chain", [["rater", None], ["rater", "rater"], ["rater", "rater", None], ["person", "rater"]])
def test_what_an_earlier_alignment_claims_is_of_its_own_answers_alone(chain):
    begun = {"verb": "adapt", "run": "r", "study": "s", "config": {}, "inputs": {}, "results": (), "environment": {}}
    about = {k: v for k, v in begun.items() if k not in ("verb", "results")}
    report = Report(**begun, data_fingerprint="f", guarantee=PLAIN)
    for k, unit in enumerate(chain):
        todo = rounds.Rounds.__new__(rounds.Rounds)
        todo.asked, todo.results, todo.saw_real, todo.tells, todo.claim = rounds.Asked(), [], False, False, f"CLAIM {k}"
        todo.plan = None if unit is None else type("Plan", (), {"unit": unit})()
        report = todo.report(report, **about, data_fingerprint="f")
    for k, unit in enumerate(chain):
        said = [c for c in report.caveats if f"CLAIM {k}" in c]
        assert len(said) == (unit is not None)
        assert all(c.startswith(rounds.EARLIER) for c in said) == (k < len(chain) - 1 or unit is None)
    assert (judged.TAKEN_AS_PUBLIC in report.caveats) == (chain[-1] is not None)
