"""The raters' file: nothing is lost, nothing is there twice, nothing foreign gets in."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mien.alignment.store import Advice, Answer, Pair, Refused, Store
from mien.core.errors import MienError

MINE = {"cohort": "c" * 64, "model": "m" * 64}
PAIRS = [Pair(id=f"p{i}", a=f"r{i}", b=f"r{i + 1}", label="calm") for i in range(3)]


def made(path: Path, raters: tuple[str, ...] = ("ann", "bob")) -> Store:
    store = Store.create(path, **MINE)
    store.add(PAIRS, **MINE)
    for r in raters:
        store.seat(r)
    return store


def form(pair: str = "p0", nonce: str = "nonce-0001", **kw) -> Answer:
    return Answer(**{"pair": pair, "nonce": nonce, "choice": "A", **kw})


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("answer"), st.sampled_from(["ann", "bob"]), st.integers(0, 2), st.sampled_from("AB")),
        st.tuples(st.just("replay"), st.integers(0, 30)),
        st.tuples(st.just("undo"), st.integers(0, 30)),
        st.tuples(st.just("reopen")),
    ),
    max_size=25,
)


@settings(max_examples=40, deadline=None)
@given(steps=STEPS)
def test_what_stands_is_the_last_answer_not_undone(steps, tmp_path_factory):
    path = tmp_path_factory.mktemp("s") / "feedback.sqlite"
    store = made(path)
    log: list[dict] = []  # the oracle: every answer ever, with whether it was taken back
    for i, step in enumerate(steps):
        if step[0] == "answer":
            _, rater, pair, choice = step
            said = form(f"p{pair}", f"nonce-{i:04d}", choice=choice)
            log.append({"n": store.answer(rater, said, **MINE), "rater": rater, "said": said, "undone": False})
        elif step[0] == "replay" and log:
            old = log[step[1] % len(log)]
            assert store.answer(old["rater"], old["said"], **MINE) == old["n"]
        elif step[0] == "undo" and log:
            old = log[step[1] % len(log)]
            store.undo(old["rater"], old["n"])
            old["undone"] = True
        elif step[0] == "reopen":
            store.close()
            store = Store.open(path)
    wanted = {(x["rater"], x["said"].pair): (x["n"], x["said"]) for x in log if not x["undone"]}
    found = store.standing()
    assert {(rater, said.pair): (n, said) for n, rater, said, _ in found} == wanted
    assert len(found) == len(wanted)
    assert [x[:3] for x in store.standing("ann")] == [x[:3] for x in found if x[1] == "ann"]
    rows = store._read("SELECT count(*) FROM answers")[0][0]
    assert rows == len(log)
    store.close()


def test_one_nonce_is_one_form_of_one_rater(tmp_path):
    store = made(tmp_path / "f.sqlite")
    n = store.answer("ann", form(), **MINE)
    assert store.answer("ann", form(), **MINE) == n
    with pytest.raises(Refused, match="said something else"):
        store.answer("ann", form(choice="B"), **MINE)
    assert store.answer("bob", form(choice="B"), **MINE) != n  # another rater's nonces are none of ann's business
    assert [s.choice for _, _, s, _ in store.standing()] == ["A", "B"]


def test_nothing_is_changed_or_deleted(tmp_path):
    store = made(tmp_path / "f.sqlite")
    store.undo("ann", store.answer("ann", form(), **MINE))
    store.advise("ann", Advice(pair="p0", recording="r0", nonce="nonce-adv", kind="recognise"), **MINE)
    for table in ("studies", "pairs", "seats", "tokens", "answers", "retractions", "advice"):
        for sql in (
            f"DELETE FROM {table}",
            f"UPDATE {table} SET at = ''" if table != "pairs" else "UPDATE pairs SET a = ''",
        ):
            with pytest.raises(sqlite3.IntegrityError, match="only ever appended"):
                store._db.execute(sql)
    assert (tmp_path / "f.sqlite").stat().st_mode & 0o077 == 0


def test_foreign_things_are_refused_and_nothing_is_lost(tmp_path):
    path = tmp_path / "f.sqlite"
    store = made(path)
    store.answer("ann", form(), **MINE)
    other = {"cohort": MINE["cohort"], "model": "x" * 64}
    with pytest.raises(Refused, match="another model"):
        store.answer("ann", form(nonce="nonce-0002"), **other)
    with pytest.raises(Refused, match="another model"):
        store.add([Pair(id="new", a="r8", b="r9")], **other)
    with pytest.raises(MienError, match="another cohort or model"):
        Store.create(path, **other)
    with pytest.raises(Refused, match="no rater"):
        store.answer("eve", form(), **MINE)
    with pytest.raises(Refused, match="no such pair"):
        store.answer("ann", form("p9", "nonce-0003"), **MINE)
    with pytest.raises(Refused, match="no answer of yours"):
        store.undo("bob", 1)
    with pytest.raises(Refused, match="none of the pair's"):
        store.advise("ann", Advice(pair="p0", recording="r2", nonce="nonce-adv", kind="recognise"), **MINE)
    with pytest.raises(Refused, match="another pair already"):
        store.add([Pair(id="p0", a="r0", b="r2")], **MINE)
    with pytest.raises(MienError, match="pseudonym"):
        store.seat("<b>ann</b>")
    store.add(PAIRS, **MINE)  # the same again
    assert len(store.standing()) == 1
    assert len(store.pairs()) == 3


@pytest.mark.parametrize(
    "wrong",
    [
        {"choice": "left"}, {"choice": ["A"]}, {"choice": None}, {"side": "left"}, {"confidence": 0}, {"confidence": 6},
        {"confidence": 2.5}, {"confidence": True}, {"confidence": "3"}, {"aspects": ["realism"]},
        {"aspects": {"beauty": "A"}}, {"aspects": {"realism": "best"}}, {"comment": "x" * 4001}, {"comment": 7},
        {"comment": "a\0b"}, {"comment": "\ud800"}, {"seconds": float("nan")}, {"seconds": -1}, {"seconds": True},
        {"seconds": 10**400}, {"pair": ["p0"]}, {"pair": ""},
    ],
    ids=str,
)  # fmt: skip
def test_a_wrong_form_is_refused(wrong):
    with pytest.raises(Refused):
        form(**wrong)


@pytest.mark.parametrize("nonce", ["", "short", "x" * 65, "with space!", None, 12345678, "a/../../b"])
def test_a_wrong_nonce_is_refused(nonce, tmp_path):
    with pytest.raises(Refused, match="nonce"):
        made(tmp_path / "f.sqlite").answer("ann", form(nonce=nonce), **MINE)


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("praise", {}), (None, {}), ([], {}), ("rating", {}), ("rating", {"value": 0}), ("rating", {"value": 1.0}),
        ("rating", {"value": 3, "more": 1}), ("region", {"stream": "bvp", "start": 3, "end": 3}),
        ("region", {"stream": "bvp", "start": -1, "end": 3}), ("region", {"stream": "", "start": 1, "end": 3}),
        ("region", {"stream": "bvp", "start": 1, "end": float("inf")}), ("instruction", {"text": "  "}),
        ("instruction", {"text": "x" * 501}), ("recognise", {"who": "my neighbour"}),
        ("correction", {"stream": "bvp", "mark": "wave", "moves": []}),
        ("correction", {"stream": "bvp", "mark": "beat", "moves": [[0, 1.0]]}),
        ("correction", {"stream": "bvp", "mark": "beat", "moves": [[0, 1.0, 0], [0, 2.0, 0]]}),
        ("correction", {"stream": "bvp", "mark": "beat", "moves": [[-1, 1.0, 0]]}),
        ("correction", {"stream": "bvp", "mark": "beat", "moves": [[0.5, 1.0, 0]]}),
        ("correction", {"stream": "bvp", "mark": "beat", "moves": [[0, "1", 0]]}),
    ],
    ids=str,
)  # fmt: skip
def test_wrong_advice_is_refused(kind, body):
    with pytest.raises(Refused):
        Advice(pair="p0", recording="r0", nonce="nonce-adv", kind=kind, body=body)


def test_what_preferences_say(tmp_path):
    store = made(tmp_path / "f.sqlite")
    store.add(
        [Pair(id="again", a="r0", b="r1", label="calm", kind="repeat", again="p0"),
         Pair(id="real", a="x", b="y", kind="control", private=True)], **MINE,
    )  # fmt: skip
    store.answer("ann", form("p0", "nonce-0001", side="b", aspects={"realism": "tie"}, comment="<b>é</b>"), **MINE)
    store.answer("ann", form("again", "nonce-0002", choice="B"), **MINE)
    store.answer("ann", form("real", "nonce-0003", choice="tie"), **MINE)
    first, again, real = store.preferences()
    assert (first.pair, first.side, first.aspects, first.comment) == ("p0", "b", {"realism": "tie"}, "<b>é</b>")
    assert (first.cohort, first.model, first.label, first.private) == (MINE["cohort"], MINE["model"], "calm", False)
    assert (again.pair, again.kind, again.choice) == ("p0", "repeat", "B")
    assert (real.kind, real.private) == ("control", True)
    before = store.fingerprint()
    moves = [[3, 2.5, 0.0]]
    for i, m in enumerate(([[1, 1.0, 0.0]], moves)):
        body = {"stream": "bvp", "mark": "beat", "moves": m}
        said = Advice(pair="p0", recording="r1", nonce=f"nonce-adv{i}", kind="correction", body=body)
        store.advise("ann", said, **MINE)
    correction = store.preferences()[-1]
    name = store.corrections()[0].of
    assert (correction.kind, correction.a, correction.b, correction.choice) == (
        "correction",
        f"corrected-{name}",
        "r1",
        "A",
    )
    assert store.fingerprint() != before
    store.advise("bob", Advice(pair="p0", recording="r0", nonce="nonce-adv", kind="recognise"), **MINE)
    assert store.blocked() == {"r0"}
    assert [p.pair for p in store.preferences()] == [
        "real",
        f"correction-{name}",
    ]  # nobody learns from a recognised person
    assert {p.recognised for p in store.preferences(blocked=True)} == {None}  # ann did not recognise anybody
    store.answer("bob", form("p0", "nonce-0009"), **MINE)
    bob = next(p for p in store.preferences(blocked=True) if p.rater == "bob")
    assert (bob.recognised, bob.private) == ("r0", True)
    store.copy(tmp_path / "copy.sqlite")
    with Store.open(tmp_path / "copy.sqlite") as twin:
        assert twin.fingerprint() == store.fingerprint()
        assert twin.counts() == store.counts()
    assert store.counts()["recordings recognised"] == 1
    assert "ann" not in str(store.counts())


def test_an_undone_answer_takes_its_corrections_with_it(tmp_path):
    store = made(tmp_path / "f.sqlite")
    for i, (rater, pair, one) in enumerate((("ann", "p0", "r0"), ("bob", "p0", "r0"), ("ann", "p1", "r1"))):
        body = {"stream": "bvp", "mark": "beat", "moves": [[3, 2.5, 0.0]]}
        said = Advice(pair=pair, recording=one, nonce=f"nonce-adv{i}", kind="correction", body=body)
        store.advise(rater, said, **MINE)

    def teach() -> list[tuple[str, str]]:
        return [(p.rater, p.b) for p in store.preferences() if p.kind == "correction"]

    n = store.answer("ann", form(), **MINE)
    assert teach() == [("ann", "r0"), ("bob", "r0"), ("ann", "r1")]
    store.undo("ann", n)
    assert teach() == [("bob", "r0"), ("ann", "r1")]
    store.answer("ann", form(nonce="nonce-0002"), **MINE)
    assert teach() == [("ann", "r0"), ("bob", "r0"), ("ann", "r1")]


def test_a_link_that_nobody_was_told_is_made_when_it_is(tmp_path):
    store = Store.create(tmp_path / "f.sqlite", **MINE)
    assert store.seat("new", told=False) is None
    assert store.seat("new", told=False, anew=True) is None
    token = store.seat("new")
    assert token is not None
    assert store.rater(token) == "new"
    assert store.seat("new") is store.seat("new", told=False) is None


def test_a_token_opens_one_seat_until_another_is_given(tmp_path):
    store = Store.create(tmp_path / "f.sqlite", **MINE)
    ann, bob = store.seat("ann"), store.seat("bob")
    assert (store.rater(ann or ""), store.rater(bob or "")) == ("ann", "bob")
    assert store.seat("ann") is None
    new = store.seat("ann", anew=True)
    assert new
    assert store.rater(ann or "") is None
    assert store.rater(new) == "ann"
    assert store.rater("") is None
    assert store.rater("\ud800") is None
    assert new.encode() not in (tmp_path / "f.sqlite").read_bytes() + (tmp_path / "f.sqlite-wal").read_bytes()


def test_many_threads_one_form(tmp_path):
    store = made(tmp_path / "f.sqlite")
    found: list[int] = []
    threads = [threading.Thread(target=lambda: found.append(store.answer("ann", form(), **MINE))) for _ in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(found) == 8
    assert len(set(found)) == 1


WRITER = """
import sys
from pathlib import Path
from mien.alignment.store import Answer, Store
store = Store.open(Path(sys.argv[1]))
for i in range(100000):
    n = store.answer("ann", Answer(pair="p0", nonce=f"nonce-{i:06d}", choice="A"), cohort="c" * 64, model="m" * 64)
    print(n, flush=True)
"""


def test_what_was_acknowledged_survives_a_kill(tmp_path):
    path = tmp_path / "f.sqlite"
    made(path).close()
    root = Path(__file__).resolve().parents[2]
    env = {**os.environ, "PYTHONPATH": str(root / ".typing")}
    with subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True, env=env) as p:
        assert p.stdout
        told = [int(p.stdout.readline()) for _ in range(40)]
        p.send_signal(signal.SIGKILL)
        told += [int(x) for x in p.stdout.read().split("\n")[:-1]]
    with Store.open(path) as store:
        (rows,) = store._read("SELECT count(*) FROM answers")[0]
        assert rows in (len(told), len(told) + 1)  # stored, and killed before it could say so
        assert store._read("PRAGMA integrity_check") == [("ok",)]
        store.answer("ann", form(), **MINE)


@pytest.mark.parametrize("content", [b"", b"not a database at all", b"SQLite format 3\0" + b"x" * 4000])
def test_another_file_is_refused(content, tmp_path):
    (file := tmp_path / "f.sqlite").write_bytes(content)
    with pytest.raises(MienError, match="no file of answers"):
        Store.open(file)
    assert file.read_bytes() == content
    with pytest.raises(MienError, match="no answers at"):
        Store.open(tmp_path / "none")
