"""Answers that are private: nobody decides what becomes of another's, whom each tells of, and none turns public on its way."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mien.adapters import budget
from mien.alignment import judged, preferences, rounds
from mien.alignment.preferences import Preference
from mien.alignment.store import Advice, Answer, Pair, Store
from mien.alignment.studio import calls, offline, server, source
from mien.core.errors import MienError
from mien.core.records import Recording
from mien.core.results import Report
from mien.core.verbs import PLAIN
from mien.generation import sample
from mien.generation.vocabulary import PAD
from mien.recipes import feedback

MINE = {"cohort": "c" * 40, "model": "m" * 40}


def said(rater: str, pair: str, a: str = "", b: str = "", **more) -> Preference:
    return Preference(
        **{"pair": pair, "a": a or f"{pair}x", "b": b or f"{pair}y", "rater": rater, "choice": "A", **more}
    )


def lines(path):
    return path.read_text().splitlines()


# --- one rater more or less -------------------------------------------------------------------------------------------
@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 12)), min_size=8, max_size=40, unique=True), st.integers(0, 99)
)
def test_no_rater_decides_where_anothers_answers_go(who, seed):
    answers = [said(f"r{r}", f"q{q}") for r, q in who]

    def train(of):
        try:
            return preferences.split(of, 0.3, seed, alone=True).train
        except MienError:
            return None  # all pairs on one side: another seed is asked for

    whole = train(answers)
    for one in {p.rater for p in answers}:
        rest = [p for p in answers if p.rater != one]
        without = train(rest) if len({p.pair for p in rest}) > 1 else None
        if whole is not None and without is not None:
            assert [p for p in whole if p.rater != one] == without


def test_no_rater_moves_anothers_corrections(tmp_path):
    """Numbered in the order of the store, one rating of ann's would send bob's to other sides."""
    sides = []
    for words in (0, 1, 3):
        with Store.create(tmp_path / f"{words}.sqlite", **MINE) as store:
            store.add([Pair(id=f"p{i}", a=f"r{2 * i}", b=f"r{2 * i + 1}") for i in range(12)], **MINE)
            store.seat("ann"), store.seat("bob")
            for i in range(words):
                said_first = Advice(
                    pair="p0", recording="r0", nonce=f"rating-{i:04d}", kind="rating", body={"value": 3}
                )
                store.advise("ann", said_first, **MINE)
            for i in range(12):
                body = {"stream": "eda", "mark": "scr", "moves": [[0, 1.0, 0.0]]}
                move = Advice(pair=f"p{i}", recording=f"r{2 * i}", nonce=f"nonce-{i:04d}", kind="correction", body=body)
                store.advise("bob", move, **MINE)
            sides.append({p.b for p in preferences.split(store.preferences(), 0.5, 0, alone=True).train})
    assert 0 < len(sides[0]) < 12
    assert sides[0] == sides[1] == sides[2]


def test_all_answers_about_a_pair_are_on_one_side_and_the_share_is_about_the_asked_one():
    answers = [said(r, f"q{q}") for q in range(400) for r in ("ann", "ben")]
    sides = preferences.split(answers, 0.25, 3, alone=True)
    assert not {p.pair for p in sides.train} & {p.pair for p in sides.held_out}
    assert 0.18 < len(sides.held_out) / len(answers) < 0.32
    again = preferences.split([*answers[::-1]], 0.25, 3, alone=True)
    assert {p.pair for p in again.held_out} == {p.pair for p in sides.held_out}
    assert {p.pair for p in preferences.split(answers, 0.25, 4, alone=True).held_out} != {
        p.pair for p in sides.held_out
    }


def test_a_split_with_nothing_on_one_side_says_what_to_do():
    with pytest.raises(MienError, match="another seed"):
        preferences.split([said("ann", "q1"), said("ann", "q2")], 1e-9, 0, alone=True)


def test_agreement_refuses_nothing_where_answers_are_private(monkeypatch):
    """Whether all may be learned from is an answer about all raters, which nobody's clipping bounds."""
    answers = [said(r, f"q{q}", choice="AB"[(q + i) % 2]) for q in range(12) for i, r in enumerate(("ann", "ben"))]
    monkeypatch.setattr(judged.Pairs, "of", lambda rows, layout: FakePairs(len(rows)))
    documents = {one: (["<p>"], [f"<{one}>"]) for p in answers for one in (p.a, p.b)}
    asked = {"minimum_alpha": 0.3, "held_out": 0.3, "seed": 0}
    with pytest.raises(MienError, match="agree too little"):
        judged.learned(answers, documents, None, **asked)
    found = judged.learned(answers, documents, None, **asked, private=True)
    assert len(found.train) + len(found.held_out) == len(answers)


def test_a_held_out_side_where_nothing_was_decided_stops_nothing(monkeypatch):
    answers = [said("ann", f"q{q}") for q in range(12)]
    out = {p.pair for p in preferences.split(answers, 0.3, 0, alone=True).held_out}
    answers = [replace(p, choice="tie") if p.pair in out else p for p in answers]
    monkeypatch.setattr(judged.Pairs, "of", lambda rows, layout: FakePairs(len(rows)))
    documents = {one: (["<p>"], [f"<{one}>"]) for p in answers for one in (p.a, p.b)}
    found = judged.learned(answers, documents, None, minimum_alpha=0.3, held_out=0.3, seed=0, private=True)
    assert (len(found.train), found.held_out) == (12 - len(out), None)


def test_whoever_is_recognised_in_one_answer_is_learned_from_in_none(monkeypatch):
    """Also where that answer is held out and others about the same recording teach."""
    answers = [said(r, f"q{q}", "x", f"y{q}") for q in range(12) for r in ("ann", "ben")]
    answers += [said(r, f"o{q}", choice="AB"[q % 2]) for q in range(12) for r in ("ann", "ben")]
    answers[0] = replace(answers[0], recognised="x")
    rows = []
    monkeypatch.setattr(judged.Pairs, "of", lambda some, layout: rows.extend(some) or FakePairs(len(some)))
    documents = {one: (["<p>"], [f"<{one}>"]) for p in answers for one in (p.a, p.b)}
    for private in (False, True):
        rows.clear()
        judged.learned(answers, documents, None, minimum_alpha=0.3, held_out=0.3, seed=0, private=private)
        assert {r["pair_id"][0] for r in rows} == {"o"}


class FakePairs:
    def __init__(self, n: int):
        self.n, self.private = n, judged.np.zeros(n, bool)

    def __len__(self):
        return self.n


# --- whom an answer tells of ------------------------------------------------------------------------------------------
def test_a_recording_in_two_persons_answers_stays_each_ones_own(tmp_path):
    answers = [said("ann", "q1", "x1", "x2"), said("ann", "q2", "x2", "x3")]
    preferences.write(tmp_path / "p.jsonl", answers, lambda one: ("<p>", f"<{one}>"))
    rows = [
        json.loads(line) | {"person": who} for line, who in zip(lines(tmp_path / "p.jsonl"), ("P1", "P2"), strict=True)
    ]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    back, _, people, _ = judged.from_file(tmp_path / "p.jsonl", "")
    assert people == {("ann", frozenset(two)): who for two, who in ((("x1", "x2"), "P1"), (("x2", "x3"), "P2"))}
    made = preferences.trl_rows(
        back, lambda one: ("<p>", f"<{one}>"), person=lambda p: people[p.rater, preferences.compared(p)]
    ).rows
    assert [(r["chosen"], r["person"]) for r in made] == [("<x1>", "P1"), ("<x2>", "P2")]


def test_one_answer_tells_of_one_person(tmp_path):
    row = {
        "pair_id": "q1",
        "a": "x1",
        "b": "x2",
        "rater": "ann",
        "choice": "A",
        "prompt": "<p>",
        "chosen": "<c>",
        "rejected": "<r>",
    }
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(row | {"person": p}) + "\n" for p in ("P1", "P2")))
    with pytest.raises(MienError, match="name two persons"):
        judged.from_file(tmp_path / "p.jsonl", "")
    rows = (row | {"person": "P1"}, row | {"person": "P2", "pair_id": "another name"})
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    with pytest.raises(MienError, match="line 2: .*name two persons"):
        judged.from_file(tmp_path / "p.jsonl", "")


# --- into a study and out of it ------------------------------------------------------------------------------------------
@pytest.fixture
def study(tmp_path):
    store = Store.create(tmp_path / "f.sqlite", **MINE)
    store.add(
        [Pair(id="p0", a="r0", b="r1"), Pair(id="c0", a="real:w1", b="real:w2", kind="control", private=True)], **MINE
    )
    store.seat("ann"), store.seat("bob")
    there = {f"r{i}": Recording(id=f"r{i}", person=f"r{i}", streams={}) for i in range(4)}

    def recording(name):
        if name not in there:
            raise MienError(f"no recording {name}")
        return there[name]

    made = server.Study(store=store, recording=recording, roles={}, title="t", task="state", gone=frozenset())
    yield made
    store.close()


def file(tmp_path, *answers, **more):
    preferences.write(tmp_path / "in.jsonl", answers)
    rows = [json.loads(line) | more for line in lines(tmp_path / "in.jsonl")]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    return tmp_path / "in.jsonl"


def test_what_is_private_in_a_file_does_not_become_public_in_a_study(study, tmp_path):
    with pytest.raises(MienError, match="tells something of recorded persons.*private=true"):
        offline.take(study, file(tmp_path, said("ann", "p0", "r0", "r1", private=True)))
    assert study.store.preferences() == []


@pytest.mark.parametrize("private", [False, True])
def test_who_saw_real_recordings_is_not_forgotten(study, tmp_path, private):
    """A study marks its raters by its own control pairs; without one it would export them as if they had seen nothing."""
    answer = said("ann", "new", "r2", "r3", private=private)
    with Store.create(tmp_path / "plain.sqlite", **MINE) as store:
        store.seat("ann")
        bare = replace(study, store=store)
        with pytest.raises(MienError, match="saw real recordings.*mien align"):
            offline.take(bare, file(tmp_path, answer, saw_real=True))
        assert offline.take(bare, file(tmp_path, answer)) == {"answer": 1}
    assert offline.take(study, file(tmp_path, answer, saw_real=True)) == {"answer": 1}


def test_private_pairs_take_private_answers(study, tmp_path):
    answer = said("ann", "new", "r2", "r3", private=True)
    assert offline.take(study, file(tmp_path, answer, saw_real=True)) == {"answer": 1}
    assert [p.private for p in study.store.preferences()] == [True]


def test_whoever_was_recognised_in_a_file_is_blocked(study, tmp_path):
    answer = said("ann", "new", "r2", "r3", private=True, recognised="r3")
    path = file(tmp_path, answer)
    for _ in range(2):
        assert offline.take(study, path) == {"answer": 1, "recognised": 1}
    assert study.store.blocked() == {"r3"}
    assert study.store.preferences() == []
    with pytest.raises(MienError, match="none of its recordings"):
        offline.take(study, file(tmp_path, said("bob", "new", "r2", "r3", private=True, recognised="r9")))


AT = "2026-01-01T00:0{}:00.000+00:00".format


@pytest.mark.parametrize("undone", [False, True])
@pytest.mark.parametrize("again", [False, True])
def test_an_older_export_does_not_take_back_what_was_said_since(study, tmp_path, undone, again):
    store = study.store
    n = store.answer("ann", Answer(pair="p0", nonce="nonce-0001", choice="A"), **MINE, at=AT(1))
    path = tmp_path / "old.jsonl"
    preferences.write(path, store.preferences())
    if undone:
        store.undo("ann", n, at=AT(2))
    if again:
        store.answer("ann", Answer(pair="p0", nonce="nonce-0002", choice="B"), **MINE, at=AT(3))
    assert offline.take(study, path) == {offline.LATE: 1}
    assert [p.choice for p in store.preferences()] == (["B"] if again else [] if undone else ["A"])
    later = file(tmp_path, said("ann", "p0", "r0", "r1", comment="sure", at=AT(4)))
    for _ in range(2):
        assert offline.take(study, later) == {"answer": 1}
    assert [(p.choice, p.comment) for p in store.preferences()] == [("A", "sure")]


def test_an_older_page_does_not_take_back_what_was_said_since(study, tmp_path):
    """Its own answers and undos follow each other as they were said, whenever they are brought."""

    def line(what, nonce, at, **more):  # fmt: skip
        seal = offline.Desk(study, "ann").seal
        return {"study": study.key, "rater": "ann", "seal": seal, "what": what, "nonce": nonce, "at": AT(at), **more}

    rows = [
        line("answer", "nonce-page-1", 1, pair="p0", choice="tie"), line("undo", "nonce-page-1", 2),
        line("answer", "nonce-page-2", 3, pair="p0", choice="both_bad"),
    ]  # fmt: skip
    (page := tmp_path / "page.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    with Store.create(tmp_path / "later.sqlite", **MINE) as store:
        store.add(study.store.pairs(), **MINE), store.seat("ann")
        other = replace(study, store=store)
        store.answer("ann", Answer(pair="p0", nonce="nonce-0001", choice="B"), **MINE, at=AT(4))
        elsewhere = {"study": other.key, "seal": offline.Desk(other, "ann").seal}
        page.write_text("".join(json.dumps(r | elsewhere) + "\n" for r in rows))
        assert offline.take(other, page) == {offline.LATE: 3}
        assert [p.choice for p in store.preferences()] == ["B"]
    page.write_text("".join(json.dumps(r) + "\n" for r in rows))
    for _ in range(2):
        assert offline.take(study, page) == {"answer": 2, "undo": 1}
        assert [p.choice for p in study.store.preferences()] == ["both_bad"]


def test_trl_s_columns_alone_are_told_what_they_lack(study, tmp_path):
    (path := tmp_path / "trl.jsonl").write_text(
        json.dumps({"prompt": "<p>", "chosen": "<x>", "rejected": "<y>"}) + "\n"
    )
    with pytest.raises(MienError, match="line 1: .*who compared which recordings.*pair_id, a, b"):
        offline.take(study, path)


@pytest.mark.parametrize(
    ("last", "told"),
    [
        (said("ann", "far", "r0", "r9"), "line 4: pair far: recording 'r9' is not in this cohort"),
        (said("bob", "p0", "r0", "r2"), "line 4: pair p0 is of other recordings"),
        (said("bob", "p0", "r0", "r1", private=True), "line 4: the answer about pair p0 is private"),
        (said("bob", "p0", "r0", "r1", cohort="other"), "line 4: pair p0 is about another cohort"),
        (
            said("bob", "q3", "r2", "r3", private=True, recognised="r0"),
            "line 4: .*private|line 4: .*none of its recordings",
        ),
    ],
)
def test_a_file_with_a_bad_line_is_not_stored_at_all(study, tmp_path, last, told):
    good = [said("ann", "p0", "r0", "r1"), said("ann", "q2", "r1", "r2"), said("bob", "q2", "r1", "r2", choice="tie")]
    before, pairs = study.store.fingerprint(), study.store.pairs()
    with pytest.raises(MienError, match=told):
        offline.take(study, file(tmp_path, *good, last))
    assert (study.store.fingerprint(), study.store.pairs()) == (before, pairs)
    assert offline.take(study, file(tmp_path, *good)) == {"answer": 3}


def test_two_recordings_are_one_pair_whatever_a_file_calls_them(study, tmp_path):
    """Otherwise a rater would be asked, and count, twice, and what the study exports would contradict itself."""
    study.store.answer("ann", Answer(pair="p0", nonce="nonce-0001", choice="A"), **MINE, at=AT(1))
    assert offline.take(study, file(tmp_path, said("ann", "own-name", "r1", "r0", at=AT(2)))) == {"answer": 1}
    assert [p.id for p in study.store.pairs()] == ["p0", "c0"]
    assert [(p.pair, p.a, p.choice) for p in study.store.preferences()] == [("p0", "r0", "B")]


def test_repeats_are_the_same_after_export_and_import(study, tmp_path):
    study.store.add([Pair(id="p0-again", a="r0", b="r1", kind="repeat", again="p0")], **MINE)
    for i, (pair, choice) in enumerate((("p0", "A"), ("p0-again", "B"))):
        study.store.answer("ann", Answer(pair=pair, nonce=f"nonce-000{i}", choice=choice), **MINE, at=AT(i))
    preferences.write(tmp_path / "out.jsonl", study.store.preferences())
    with Store.create(tmp_path / "other.sqlite", **MINE) as store:
        store.add(study.store.pairs(), **MINE), store.seat("ann")
        assert offline.take(replace(study, store=store), tmp_path / "out.jsonl") == {"answer": 2}
        assert [(p.pair, p.kind, p.choice) for p in store.preferences()] == [("p0", "pair", "A"), ("p0", "repeat", "B")]
        assert preferences.quality(store.preferences()).raters[0].consistent == preferences.Share(k=0, n=1)


def test_a_link_is_made_anew_for_raters_of_the_study_alone(tmp_path):
    (path := tmp_path / "f.yaml").write_text(
        "study: s\nsynthetic: generate-s\nraters: [ann, bob]\nlinks: [ann, typo]\n"
    )
    with pytest.raises(MienError, match="links: 'typo' is none of the raters"):
        feedback.main([str(path)])


def test_a_corrected_real_recording_is_no_synthetic_one(study):
    """The page takes the correction (to refuse it would tell that the recording is real), and nothing is made of it."""
    body = {"stream": "bvp", "mark": "beat", "moves": [[0, 1.0, 0.0]]}
    for i, (pair, one) in enumerate((("c0", "real:w1"), ("p0", "r0"))):
        advice = Advice(pair=pair, recording=one, nonce=f"nonce-{i:04d}", kind="correction", body=body)
        study.store.advise("ann", advice, **MINE)
    assert [d.advice.recording for d in study.store.corrections()] == ["r0"]
    assert [p.b for p in study.store.preferences() if p.kind == "correction"] == ["r0"]
    assert study.store.counts()["advice: correction"] == 2


def test_who_saw_a_real_recording_and_took_it_back_has_seen_it(study):
    n = study.store.answer("ann", Answer(pair="c0", nonce="nonce-0009", choice="A"), **MINE)
    study.store.undo("ann", n)
    assert not any(judged.shows_real(p) for p in study.store.preferences(blocked=True))
    assert any(map(judged.shows_real, study.store.pairs()))


# --- what is claimed afterwards ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("unit", ["person", "rater", None])
@pytest.mark.parametrize("saw_real", [False, True])
@pytest.mark.parametrize("tells", [False, True])
def test_a_guarantee_stands_only_where_every_way_to_a_person_is_covered(unit, saw_real, tells):
    todo = rounds.Rounds.__new__(rounds.Rounds)
    todo.asked, todo.claim, todo.results, todo.saw_real, todo.tells = rounds.Asked(), "CLAIM", [], saw_real, tells
    todo.plan = None if unit is None else type("Plan", (), {"unit": unit})()
    begun = {"verb": "adapt", "run": "r", "study": "s", "config": {}, "inputs": {}, "results": (), "environment": {}}
    about = {k: v for k, v in begun.items() if k not in ("verb", "results")}
    for guarantee in ("(8, 1e-5)-DP for each person", PLAIN):
        adapter = Report(**begun, data_fingerprint="f", guarantee=guarantee)
        made = todo.report(adapter, **about, data_fingerprint="f")
        void = saw_real or (tells and unit != "person")
        if guarantee == PLAIN:
            assert made.guarantee == PLAIN
        else:
            assert made.guarantee.startswith("none any more") == void
            assert ("CLAIM" in made.guarantee) == (unit == "person" and not void)
        assert (judged.SAW_REAL in made.caveats) == void
        assert (judged.TAKEN_AS_PUBLIC in made.caveats) == (unit is not None)
        assert any("CLAIM" in c for c in made.caveats) == (unit is not None)


def test_raters_are_charged_under_one_name_whatever_a_study_is_called(monkeypatch):
    seen = []

    class Entry:
        def __init__(self, run, source, who, plan, cap, main):
            seen.append((source, tuple(who)))

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def close(self):
            return "claim"

    monkeypatch.setattr(budget, "Entry", Entry)
    monkeypatch.setattr(rounds.dpo_, "train_private", lambda *a, **k: [])
    monkeypatch.setattr(rounds.dpo_, "units", lambda train, unit: train.rater)
    for study in ("a", "b"):
        todo = rounds.Rounds.__new__(rounds.Rounds)
        todo.asked, todo.main, todo.source = rounds.Asked(), True, "watch"
        todo.run = type("Run", (), {"study": study})()
        todo.accelerator = type("One", (), {"wait_for_everyone": lambda self: None})()
        todo.opened = type("Opened", (), {"model": None, "backbone": None, "layout": None})()
        spec = type("Spec", (), {"unit": "rater", "cap": None, "plan": lambda self, **k: self})()
        todo._private(type("Train", (), {"rater": ["ann", "ben", "ann"], "person": []})(), spec, {})
    assert seen[0] == seen[1] == ("raters", ("ann", "ben"))


def test_a_release_names_no_rater():
    answers = [said(r, f"q{q}", choice="AB"[q % 2]) for q in range(8) for r in ("anna-k", "ben")]
    found = preferences.quality(answers)
    assert "anna-k" not in str(found)
    assert "16 answers of 2 raters" in str(found)
    assert any("anna-k" in row for row in found.rows())


# --- the documents that were sampled ---------------------------------------------------------------------------------------
def test_what_was_sampled_is_what_is_learned_from(study, tmp_path):
    """Not the recording written anew, which is another document, or none; of recordings of several windows nothing is kept."""
    for k, names in enumerate((["window_0"], ["window_0", "window_1"], ["window_0"])):
        rows = np.array([[5, 6 + k, 7, PAD], [5, 8, 9, 10 + k]], np.int32)
        np.savez(tmp_path / f"part-{k:05d}.npz", **dict.fromkeys(names, rows))
    kept = sample.kept(tmp_path)
    assert list(kept) == [f"synthetic-{i:06d}" for i in (0, 1, 4, 5)]
    assert kept["synthetic-000004"].tolist() == [5, 8, 7]

    class Layout:
        prompt_length, task = 1, "state"
        vocabulary = type("Vocabulary", (), {"names": [f"<{i}>" for i in range(20)]})()

        def encode(self, streams, labels):
            return [None]

    encode = source.tokens(Layout(), study, {"r0": kept["synthetic-000004"]})
    assert encode("r0") == ("<5>", "<8> <7>")
    study.recording("r1").labels["state"] = "calm"
    with pytest.raises(MienError, match="cannot be written"):
        encode("r1")


def test_an_export_keeps_what_agreement_is_made_of(study, tmp_path, monkeypatch):
    """Of decided answers alone, raters who contradict each other would seem to agree."""
    pairs = [Pair(id=f"q{i}", a=f"s{i}", b=f"t{i}") for i in range(9)]
    study.store.add([*pairs, Pair(id="b0", a="r0", b="broken:r0", kind="control")], **MINE)
    for i, p in enumerate(pairs):
        for rater, choice in (("ann", ("A", "B", "tie")[i % 3]), ("bob", ("A", "both_bad", "B")[i % 3])):
            study.store.answer(rater, Answer(pair=p.id, nonce=f"nonce-{i:04d}", choice=choice), **MINE)
    study.store.answer("ann", Answer(pair="b0", nonce="nonce-b000", choice="A"), **MINE)
    study.store.answer("ann", Answer(pair="c0", nonce="nonce-c000", choice="A"), **MINE)
    monkeypatch.setattr(source, "tokens", lambda *_: lambda one: ("<p>", f"<{one}>"))
    calls.write_pairs(study, tmp_path / "pairs.jsonl", None, {})
    back = preferences.read(tmp_path / "pairs.jsonl")
    assert preferences.quality(back).alpha == preferences.quality(study.store.preferences()).alpha
    assert preferences.quality(back).undecided == 6
    rows = [json.loads(line) for line in lines(tmp_path / "pairs.jsonl")]
    assert {r["choice"] for r in rows if "chosen" in r} == {"A", "B"}
    assert {r["kind"] for r in rows if "chosen" in r} == {"pair"}
    assert [r["pair_id"] for r in rows if r["kind"] == "control"] == ["b0"]
    assert "real:" not in str(rows)
    assert all(r["saw_real"] for r in rows)
