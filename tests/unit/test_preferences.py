"""What raters said: agreement, reliability, the gate, rows for TRL, files, splits."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mien.alignment import preferences as pf
from mien.alignment.preferences import Preference
from mien.core.errors import MienError

NO = np.nan
TEXTBOOK = np.array([  # Krippendorff 2011, section C: four observers, twelve units
    [1, 2, 3, 3, 2, 1, 4, 1, 2, NO, NO, NO],
    [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, NO, 3],
    [NO, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, NO],
    [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, NO],
])  # fmt: skip


def said(pair: int, rater: str, choice: str = "A", **more) -> Preference:
    return Preference(
        **{"pair": f"p{pair}", "a": f"x{pair}", "b": f"y{pair}", "rater": rater, "choice": choice, **more}
    )


def study(sharpness: dict[str, float], pairs: int, seed: int = 0, ties: float = 0.0) -> list[Preference]:
    rng = np.random.default_rng(seed)
    out = []
    for i, delta in enumerate(rng.normal(size=pairs)):
        for rater, d in sharpness.items():
            won = rng.uniform() < 1 / (1 + np.exp(-d * delta))
            out.append(said(i, rater, "tie" if rng.uniform() < ties else "A" if won else "B"))
    return out


def slow_alpha(values: np.ndarray, level: str) -> float:
    """α by walking over all pairs of values."""
    units = [[v for v in column if np.isfinite(v)] for column in values.T]
    units = [u for u in units if len(u) > 1]
    everything = [v for u in units for v in u]
    count = Counter(everything)

    def delta(a, b):
        if level == "nominal":
            return float(a != b)
        low, high = min(a, b), max(a, b)
        return (sum(n for v, n in count.items() if low <= v <= high) - (count[a] + count[b]) / 2) ** 2

    n = len(everything)
    observed = sum(
        sum(delta(a, b) for i, a in enumerate(u) for j, b in enumerate(u) if i != j) / (len(u) - 1) for u in units
    )
    expected = sum(delta(a, b) for i, a in enumerate(everything) for j, b in enumerate(everything) if i != j)
    return 1 - observed / n / (expected / (n * (n - 1)))


@pytest.mark.parametrize(("level", "value"), [("nominal", 0.743), ("ordinal", 0.815)])
def test_alpha_is_the_textbook_s(level, value):
    assert pf.krippendorff(TEXTBOOK, level) == pytest.approx(value, abs=5e-4)


TABLES = st.integers(0, 10**6).map(
    lambda s: np.where(
        np.random.default_rng(s).uniform(size=(4, 9)) < 0.2, NO, np.random.default_rng(s + 1).integers(4, size=(4, 9))
    )
)


@given(TABLES, st.sampled_from(["nominal", "ordinal"]), st.permutations(range(4)))
@settings(max_examples=60, deadline=None)
def test_alpha_agrees_with_its_definition_and_not_with_names(table, level, order):
    fast = pf.krippendorff(table, level)
    assert fast == pytest.approx(slow_alpha(table, level), abs=1e-9)
    assert pf.krippendorff(table[list(order)], level) == pytest.approx(fast, abs=1e-9)
    if level == "nominal":
        renamed = np.where(np.isfinite(table), np.array(order)[np.nan_to_num(table).astype(int)], NO)
        assert pf.krippendorff(renamed, level) == pytest.approx(fast, abs=1e-9)


@given(st.integers(0, 10**6))
@settings(max_examples=20, deadline=None)
def test_agreement_does_not_know_which_recording_is_called_a(seed):
    answers = study({"r1": 2.0, "r2": 1.0, "r3": 3.0}, 20, seed, ties=0.2)
    flip = set(np.random.default_rng(seed).choice(20, 9, replace=False))
    other = {"A": "B", "B": "A", "tie": "tie"}
    swapped = [
        replace(p, a=p.b, b=p.a, choice=other[p.choice]) if int(p.pair[1:]) in flip else p for p in reversed(answers)
    ]
    assert pf.agreement(answers) == pf.agreement(swapped)
    assert pf.agreement(answers, "ordinal") == pf.agreement(swapped, "ordinal")
    assert pf.reliability(answers) == pytest.approx(pf.reliability(swapped), abs=1e-3)


def test_perfect_and_no_agreement():
    same = [said(i, r, "AB"[i % 2]) for i in range(10) for r in "xyz"]
    assert pf.agreement(same).value == 1
    one_sided = [said(i, r, "A") for i in range(10) for r in "xyz"]  # b happens to be the worse one in all pairs
    assert pf.agreement(one_sided).value == 1
    assert pf.agreement([said(i, "x") for i in range(5)]) is None
    coins = pf.agreement(study({"x": 0.0, "y": 0.0, "z": 0.0}, 400, 3))
    assert coins.low < 0 < coins.high


@pytest.mark.parametrize("seed", range(3))
def test_reliability_recovers_planted_raters(seed):
    planted = {"coin": 0.0, "dull": 0.6, "fair": 2.0, "sharp": 5.0, "mixed-up": -2.0}
    found = pf.reliability(study(planted, 500, seed))
    assert sorted(found, key=found.__getitem__) == ["mixed-up", "coin", "dull", "fair", "sharp"]
    assert found["coin"] == pytest.approx(0, abs=0.35)
    assert found["fair"] == pytest.approx(2, abs=0.7)
    assert found["mixed-up"] == pytest.approx(-2, abs=0.7)
    weight = pf.weights(answers := study(planted, 500, seed))
    mean = {r: weight[[p.rater == r for p in answers]].mean() for r in planted}
    assert mean["mixed-up"] == 0
    assert mean["coin"] < mean["dull"] < mean["fair"] < mean["sharp"]
    assert weight.mean() == pytest.approx(1)


def test_a_rater_nobody_can_be_compared_with_keeps_the_prior():
    assert pf.reliability([said(i, "x", "AB"[i % 2]) for i in range(30)])["x"] == pytest.approx(1, abs=0.02)
    assert pf.reliability([]) == {}


def test_accuracy_of_a_coin_and_of_a_seer():
    assert pf.accuracy(0) == pytest.approx(0.5)
    assert 0.97 < pf.accuracy(50) < 1


@pytest.mark.parametrize("seed", range(5))
def test_the_gate_refuses_coins_and_lets_experts_pass(seed):
    with pytest.raises(MienError, match=r"α = .*sharpness"):
        pf.gate(study({"x": 0.0, "y": 0.0, "z": 0.0}, 60, seed), minimum_alpha=0.4)
    assert pf.gate(study({"x": 8.0, "y": 8.0, "z": 8.0}, 60, seed), minimum_alpha=0.4).alpha.value > 0.4


def test_the_gate_asks_for_more_where_alpha_may_be_nothing():
    with pytest.raises(MienError, match="no pair was answered by two raters"):
        pf.gate([said(i, "x", "AB"[i % 2]) for i in range(50)], minimum_alpha=0.4)
    few = [said(i, r, "A" if (r, i) != ("y", 2) else "B") for i in range(3) for r in "xy"]
    with pytest.raises(MienError, match="may be 0|too little"):
        pf.gate(few, minimum_alpha=0.0)


def test_a_few_pairs_without_a_disagreement_show_little():
    found = [pf.agreement([said(i, r, "AB"[i % 2]) for i in range(n) for r in "xy"]) for n in (3, 4, 12)]
    assert [a.value for a in found] == [1, 1, 1]
    assert found[0].low < found[1].low < 0 < found[2].low < 0.6


def mixed(seed: int, teach) -> list[Preference]:
    """On three pairs of five all raters find both bad; teach(rng, rater, pair) is said of the others."""
    rng = np.random.default_rng(seed)
    return [said(i, r, "both_bad" if i % 5 < 3 else teach(rng, r, i)) for i in range(200) for r in "xyz"]


@pytest.mark.parametrize(
    ("teach", "why"),
    [
        (lambda rng, r, i: "AB"[rng.integers(2)], "too little .* between A and B"),
        (lambda rng, r, i: "A" if r == "xyz"[i % 3] else "tie", "no pair was decided by two raters"),
        (lambda rng, r, i: "AB"[rng.integers(2)] if i < 10 else "tie", "may be 0|too little"),
    ],
    ids=["coins", "alone", "few"],
)  # fmt: skip
@pytest.mark.parametrize("seed", range(3))
def test_the_gate_asks_for_agreement_on_the_answers_that_teach(teach, why, seed):
    """Raters who agree on what is bad may toss coins between the rest, and the rest is what is learned from."""
    answers = mixed(seed, teach)
    assert pf.agreement(answers).value > 0.5
    with pytest.raises(MienError, match=rf"{why}.*α = .* of A and B alone"):
        pf.gate(answers, minimum_alpha=0.5)


def test_many_bad_pairs_do_not_fail_raters_who_agree_on_the_others():
    found = pf.gate(mixed(0, lambda rng, r, i: "AB"[i % 2] if rng.uniform() < 0.95 else "BA"[i % 2]), minimum_alpha=0.6)
    assert found.decided.n_persons == 80
    assert 0.6 < found.decided.value < found.alpha.value


def test_repeats_controls_and_sides_are_told_per_rater():
    answers = [said(i, r, "A") for i in range(10) for r in "xy"]
    answers += [said(i, "x", "A" if i < 3 else "B", kind="repeat") for i in range(4)]
    answers += [replace(said(9, "x", kind="repeat"), a="y9", b="x9", choice="B")]  # the same answer with swapped names
    answers += [
        replace(said(20, "x", "A", kind="control"), b="broken:x20"),
        replace(said(21, "x", "both_bad", kind="control"), b="broken:x21"),
        said(22, "x", "both_bad", kind="control"),  # of real recordings: nobody knows the answer
    ]
    x, y = pf.quality(answers).raters
    assert (x.consistent.k, x.consistent.n) == (4, 5)
    assert (x.controls.k, x.controls.n) == (1, 2)
    assert (x.accepted.k, x.accepted.n) == (1, 3)
    assert y.controls.n == 0
    assert y.left.value == 1
    assert "α = 1.00" in str(pf.quality(answers))


def test_a_correction_is_no_look_to_the_left():
    answers = [said(i, "x", "AB"[i % 2]) for i in range(10)]
    answers += [said(i, "x", "A", kind="correction") for i in range(10, 30)]
    assert pf.quality(answers).raters[0].left == pf.Share(k=5, n=10)


# ---------------------------------------------------------------------------------------------------- rows, files
def encode(recording: str) -> tuple[str, str]:
    return "<calm>", f"<{recording}>"


def test_rows_leave_out_and_count_what_teaches_nothing():
    answers = [
        said(0, "r", "B"), said(1, "r", "tie"), said(2, "r", "both_bad"), said(3, "r", kind="control"),
        said(0, "r", "B", kind="repeat"), said(4, "r", recognised="x4"), said(5, "r", kind="correction", private=True),
    ]  # fmt: skip
    made = pf.trl_rows(answers, encode, np.arange(7.0), person=lambda p: f"of-{p.a}")
    assert [(r["chosen"], r["rejected"], r["weight"]) for r in made.rows] == [("<y0>", "<x0>", 0), ("<x5>", "<y5>", 6)]
    assert made.rows[1] | {"private": True, "person": "of-x5", "prompt": "<calm>"} == made.rows[1]
    assert made.left_out == {
        "tie": 1, "both_bad": 1, "control pairs": 1, "repeat pairs": 1, "somebody was recognised": 1,
    }  # fmt: skip
    with pytest.raises(MienError, match="different prompts"):
        pf.trl_rows(answers, lambda r: (r, r))
    with pytest.raises(MienError, match="1 tie"):
        pf.trl_rows([said(0, "r", "tie")], encode)


@given(st.lists(st.booleans(), min_size=1, max_size=8))
def test_what_is_required_public_never_yields_private_rows(private):
    answers = [said(i, "r", private=p) for i, p in enumerate(private)]
    if any(private):
        with pytest.raises(MienError, match=f"dpo .* about {sum(private)} pairs"):
            pf.require_public(answers, "dpo")
    else:
        pf.require_public(answers, "dpo")
        assert not any(r["private"] for r in pf.trl_rows(answers, encode).rows)


NAMES = st.text("abcxyz", min_size=1, max_size=4)
ANSWERS = st.builds(
    Preference, pair=NAMES, a=NAMES.map("a{}".format), b=NAMES.map("b{}".format), rater=NAMES,
    choice=st.sampled_from(["A", "B", "tie", "both_bad"]), side=st.sampled_from("ab"), confidence=st.integers(1, 5),
    aspects=st.dictionaries(st.sampled_from(pf.ASPECTS), st.sampled_from(["A", "B", "tie"])),
    comment=st.text(st.characters(exclude_categories=["Cs"]), max_size=20), private=st.booleans(),
    recognised=st.none() | NAMES, seconds=st.floats(0, 1e6),
)  # fmt: skip


@given(
    st.lists(ANSWERS, min_size=1, max_size=6, unique_by=(lambda p: (p.rater, p.pair), lambda p: (p.rater, p.a, p.b)))
)
@settings(max_examples=40, deadline=None)
def test_a_file_gives_back_what_was_written(tmp_path_factory, answers):
    answers = [replace(answers[0], choice="A"), *answers[1:]]
    path = tmp_path_factory.mktemp("answers") / "p.jsonl"
    pf.write(path, answers, encode)
    assert pf.read(path) == answers
    for p, row in zip(answers, map(json.loads, path.read_text("utf-8").split("\n")), strict=False):
        assert ("chosen" in row) == (p.choice in ("A", "B"))


ROW = {"pair_id": "p", "a": "x", "b": "y", "rater": "r", "choice": "A"}


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        ("{", "not a JSON object"), ("[1]", "not a JSON object"), ("[" * 100000, "not a JSON object"),
        ({**ROW, "confidance": 3}, "unknown key 'confidance'; 'confidence'"), ({**ROW, "rater": ""}, "no rater"),
        ({k: v for k, v in ROW.items() if k != "a"}, "no a"), ({**ROW, "choice": "C"}, "choice: 'C'"),
        ({**ROW, "choice": ["A"]}, "choice"), ({**ROW, "confidence": 6}, "confidence"), ({**ROW, "confidence": True}, "confidence"),
        ({**ROW, "private": "no"}, "private"), ({**ROW, "aspects": {"realism": ["A"]}}, "aspects"),
        ({**ROW, "aspects": {"beauty": "A"}}, "aspects"), ({**ROW, "seconds": float("nan")}, "seconds"),
        ({**ROW, "b": "x"}, "with itself"), ({**ROW, "choice": "B"}, "line 1 something else"),
        ({**ROW, "rater": "r "}, "rater 'r ': a pseudonym"), ({**ROW, "rater": "\u0440"}, "a pseudonym"),
        ({**ROW, "rater": "r\n"}, "a pseudonym"),
        ({"prompt": "<p>", "chosen": "<x>", "rejected": "<y>"}, "who compared which recordings.*pair_id, a, b"),
        ({**ROW, "at": "yesterday"}, "at: 'yesterday'"), ({**ROW, "at": 3}, "at: 3"),
        ({**ROW, "a": "z"}, "line 1 something else"), ({**ROW, "rater": "stranger", "pair_id": "q"}, "none of this study's raters"),
    ],
)  # fmt: skip
def test_a_bad_line_is_named(tmp_path, bad, why):
    (path := tmp_path / "p.jsonl").write_text(
        json.dumps(ROW) + "\n\n" + (bad if isinstance(bad, str) else json.dumps(bad)) + "\n"
    )
    with pytest.raises(MienError, match=f"line 3: .*{why}"):
        pf.read(path, raters=["r"])


def test_files_of_ties_are_refused_and_doubled_lines_count_once(tmp_path):
    (path := tmp_path / "p.jsonl").write_text(json.dumps({**ROW, "choice": "tie"}))
    with pytest.raises(MienError, match="none prefers"):
        pf.read(path)
    swapped = {**ROW, "a": "y", "b": "x", "choice": "B"}
    path.write_text("\n".join(map(json.dumps, (ROW, ROW, swapped))))
    assert len(pf.read(path)) == 1
    with pytest.raises(MienError, match="cannot read"):
        pf.read(tmp_path / "none.jsonl")


@pytest.mark.parametrize("swapped", [False, True])
def test_one_rater_on_two_recordings_is_one_answer_under_whatever_name(tmp_path, swapped):
    """Each answer once more, the other way round and as another pair, would pass the gate and teach both ways."""
    answers = [said(i, r, "AB"[i % 2]) for i in range(8) for r in "xy"]
    names = {"a": "y", "b": "x"} if swapped else {"a": "x", "b": "y"}
    others = [replace(p, pair=f"q{p.pair}", **{k: f"{v}{p.pair[1:]}" for k, v in names.items()}) for p in answers]
    other = {"A": "B", "B": "A"}
    path = tmp_path / "p.jsonl"
    pf.write(path, [*answers, *(replace(p, choice=other[p.choice] if swapped else p.choice) for p in others)])
    assert pf.read(path) == answers
    pf.write(path, [*answers, *(replace(p, choice=p.choice if swapped else other[p.choice]) for p in others)])
    with pytest.raises(
        MienError, match="line 17: 'x' says . of pair qp0, and line 1 something else, which it calls p0"
    ):
        pf.read(path)


def test_two_names_of_a_pair_are_one_pair_to_agree_on():
    answers = [replace(said(i, r, "AB"[i % 2]), pair=f"{r}{i}") for i in range(9) for r in "xy"]
    found = pf.quality([*answers, replace(answers[0], pair="again", choice="B")])
    assert (found.pairs, found.answers, found.alpha.value) == (9, 18, 1)


def test_checks_of_the_same_recordings_are_no_contradiction(tmp_path):
    """A pair shown again has the first one's name; a recording may stand in two control pairs beside its pieces."""
    asked = [
        said(0, "r", "A"), said(0, "r", "B", kind="repeat", at="2026-01-01"), said(0, "r", "A", kind="repeat", at="2026-01-02"),
        said(1, "r", "A", a="x1", b="broken:x1", kind="control"), said(2, "r", "B", a="x1", b="broken:x1", kind="control"),
    ]  # fmt: skip
    pf.write(tmp_path / "p.jsonl", asked)
    assert pf.read(tmp_path / "p.jsonl") == asked
    assert pf.quality(asked).raters[0].consistent == pf.Share(k=1, n=2)


@pytest.mark.parametrize("order", [1, -1])
def test_a_line_that_is_there_twice_forgets_neither_that_it_is_private_nor_who_was_recognised(tmp_path, order):
    lines = [ROW, {**ROW, "private": True}, {**ROW, "recognised": "x"}][::order]
    (path := tmp_path / "p.jsonl").write_text("\n".join(map(json.dumps, lines)))
    (one,) = pf.read(path)
    assert (one.private, one.recognised) == (True, "x")
    path.write_text("\n".join(json.dumps({**ROW, "recognised": r}) for r in "xy"))
    with pytest.raises(MienError, match="lines 1 and 2 .*another recording"):
        pf.read(path)


# ----------------------------------------------------------------------------------------------------------- split
@given(st.integers(0, 10**6), st.sampled_from([0.2, 0.3, 0.5]), st.integers(4, 40))
@settings(max_examples=60, deadline=None)
def test_a_split_keeps_a_pair_on_one_side(seed, fraction, recordings):
    rng = np.random.default_rng(seed)
    answers = []
    for i in range(30):
        a, b = rng.choice(recordings, 2, replace=False)
        answers += [
            said(i, r, a=f"r{a}", b=f"r{b}", kind=k)
            for r in "xy" for k in ("pair", "repeat")[: 1 + int(rng.integers(2))]
        ]  # fmt: skip
    sides = pf.split(answers, fraction, seed)
    assert len(sides.train) + len(sides.held_out) == len(answers)
    assert sides.train
    assert sides.held_out
    compared = [{frozenset((p.a, p.b)) for p in side} for side in (sides.train, sides.held_out)]
    assert not compared[0] & compared[1]
    names = [{n for p in side for n in (p.a, p.b)} for side in (sides.train, sides.held_out)]
    assert sides.shared == len(names[0] & names[1])
    again = pf.split(answers, fraction, seed)
    assert again == sides


def test_pairs_of_their_own_recordings_split_without_a_shared_one():
    answers = [said(i, r) for i, r in itertools.product(range(50), "xyz")]
    sides = pf.split(answers, 0.3, 1)
    assert sides.shared == 0
    assert len(sides.held_out) == 45


def test_linked_pairs_have_one_name():
    answers = [
        said(0, "r", a="p", b="q"),
        said(1, "r", a="q", b="s"),
        said(2, "r", a="x", b="y"),
        said(2, "t", a="y", b="x"),
    ]
    assert pf.linked(answers) == ["p", "p", "x", "x"]


@pytest.mark.parametrize(
    ("answers", "fraction"), [([], 0.5), ([said(0, "x"), said(0, "y")], 0.5), ([said(0, "x"), said(1, "x")], 1.0)]
)
def test_splits_of_nothing_are_refused(answers, fraction):
    with pytest.raises(MienError):
        pf.split(answers, fraction, 0)
