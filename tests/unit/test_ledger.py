from __future__ import annotations

import dataclasses
import itertools
import json
import math
import multiprocessing
import os
import random
import shutil
import signal
import sqlite3
import stat
import tempfile
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mien.core.errors import MienError
from mien.privacy import ledger as module
from mien.privacy import ledger_cli
from mien.privacy.accounting import ORDERS, Event, epsilon
from mien.privacy.ledger import BudgetExceeded, Ledger, ledger_path

EVENT = Event(sample_rate=0.05, noise_multiplier=2.0, steps=400)
OTHER = Event(sample_rate=0.1, noise_multiplier=1.5, steps=100)
DELTA = 1e-5


def rdp_epsilon(*events, delta=DELTA):
    return epsilon(list(events), delta, accountant="rdp")


def capped_epsilon(cap, *events, delta=DELTA):
    """What a cap holds its persons to: Canonne, Kamath & Steinke's conversion at one order, the cap's."""
    at = module.order_for(cap, delta)
    a, value = ORDERS[at], module.rdp(list(events))[1][at]
    return max(0.0, value + math.log1p(-1 / a) - math.log(delta * a) / (a - 1)) if events else 0.0


def steps(event, n):
    return dataclasses.replace(event, steps=n)


@pytest.fixture(autouse=True)
def caches(home):
    return home


@pytest.fixture
def path(tmp_path):
    return tmp_path / "ledger" / "ledger.sqlite"


@pytest.fixture
def ledger(path):
    with Ledger.open(path) as opened:
        yield opened


def reserve(ledger, run, persons=("p1", "p2"), events=(EVENT,), source="watch", **more):
    return ledger.reserve(run=run, source=source, persons=list(persons), events=list(events), delta=DELTA, **more)


def spent(ledger, source="watch", **more):
    return ledger.spent(source=source, **more)[0]


# --- what is charged to whom --------------------------------------------------------------------------------------
PEOPLE = "abcdef"
MECHANISMS = [EVENT, OTHER, Event(sample_rate=1.0, noise_multiplier=20.0, steps=3, units_per_person=2)]
RUNS = st.lists(
    st.tuples(
        st.sets(st.sampled_from(PEOPLE), min_size=1),
        st.lists(st.tuples(st.sampled_from(MECHANISMS), st.integers(1, 50)), min_size=1, max_size=2),
        st.sampled_from(["open", "half", "none", "plain"]),
    ),
    max_size=6,
)


@settings(max_examples=25, deadline=None)
@given(RUNS)
def test_every_person_is_charged_what_a_list_per_person_says(runs):
    owed = {p: [] for p in PEOPLE}
    marked = set()
    with tempfile.TemporaryDirectory() as folder, Ledger.open(Path(folder) / "l.sqlite") as ledger:
        for i, (persons, planned, end) in enumerate(runs):
            events = [steps(e, n) for e, n in planned]
            if end == "plain":
                ledger.plain(run=f"r{i}", source="s", persons=sorted(persons))
                marked |= persons
                continue
            receipt = reserve(ledger, f"r{i}", sorted(persons), events, source="s")
            after = [math.inf if p in marked else rdp_epsilon(*owed[p], *events) for p in persons]
            assert receipt.epsilon_after == pytest.approx(max(after), rel=1e-7)
            if end != "open":
                events = [steps(e, e.steps // 2) for e in events] if end == "half" else []
                ledger.settle(f"r{i}", events)
            for p in persons:
                owed[p] += events
        for p in PEOPLE:
            found = spent(ledger, "s", persons=[p], delta=DELTA, pld=False)
            assert found.epsilon == pytest.approx(math.inf if p in marked else rdp_epsilon(*owed[p]), rel=1e-7)
        expected = math.inf if marked else max(rdp_epsilon(*owed[p]) for p in PEOPLE)
        assert spent(ledger, "s", delta=DELTA, pld=False).epsilon == pytest.approx(expected, rel=1e-7)
        assert ledger.verify() == []


def test_a_run_of_k_steps_costs_k_times_the_divergence_of_one():
    for event in MECHANISMS:
        one = module.rdp([steps(event, 1)])[1]
        many = module.rdp([steps(event, 37)])[1]
        assert [37 * v for v in one] == pytest.approx(many)


def test_more_sets_than_bits_in_a_word():
    """Classes are found 31 sets at a time; a person in sets 1, 40 and 80 must be told from one in 1 and 80."""
    sets = {str(k): {p for p in range(200) if (p * 7919 + k * k) % 3 == 0 or p == k} for k in range(100)}
    arrays = {k: module.np.array(sorted(v), module.np.uint64) for k, v in sets.items()}
    parts = module._partition(arrays, {})
    signature = {p: frozenset(k for k, v in sets.items() if p in v) for p in parts.people.tolist()}
    of = dict(zip(parts.people.tolist(), parts.classes.tolist(), strict=True))
    for p in of:
        for q in of:
            assert (of[p] == of[q]) == (signature[p] == signature[q])
    for k, v in sets.items():
        assert set(parts.within[k].tolist()) == {of[p] for p in v}


def test_disjoint_cohorts_do_not_add_and_overlap_charges_the_person_in_both(ledger):
    one = rdp_epsilon(EVENT)
    assert reserve(ledger, "r1", ["a", "b"]).epsilon_after == pytest.approx(one)
    assert reserve(ledger, "r2", ["c", "d"]).epsilon_after == pytest.approx(one)
    assert spent(ledger).epsilon == pytest.approx(one)
    both = rdp_epsilon(EVENT, OTHER)
    assert reserve(ledger, "r3", ["d", "e"], [OTHER]).epsilon_after == pytest.approx(both)
    assert spent(ledger, persons=["e"]).epsilon == pytest.approx(rdp_epsilon(OTHER))
    assert spent(ledger, persons=["d", "e"]).epsilon == pytest.approx(both)
    total = spent(ledger)
    assert (total.persons, total.runs, total.unsettled, total.plain) == (5, 3, 3, False)


def test_the_three_figures(ledger):
    reserve(ledger, "r1", ["a", "b"])
    reserve(ledger, "r2", ["b", "c"])
    found = spent(ledger)
    assert found.epsilon == pytest.approx(rdp_epsilon(EVENT, EVENT))
    assert found.epsilon_pld == pytest.approx(epsilon([EVENT, EVENT], DELTA))
    assert found.naive == pytest.approx(2 * epsilon([EVENT], DELTA))
    assert found.epsilon_pld < found.epsilon < found.naive


@pytest.mark.parametrize("persons", [["p1"], ["p2", "p9"], ["p2", "p1"], ["p1", "p1", "p2"]])
def test_subset_superset_and_order_are_charged_on_top(ledger, persons):
    reserve(ledger, "r1")
    assert reserve(ledger, "r2", persons).epsilon_after == pytest.approx(rdp_epsilon(EVENT, EVENT))


def test_ids_of_two_sources_are_two_persons(ledger):
    reserve(ledger, "r1", ["p01"])
    assert reserve(ledger, "r2", ["p01"], source="wesad").epsilon_after == pytest.approx(rdp_epsilon(EVENT))
    assert [s.source for s in ledger.spent()] == ["watch", "wesad"]


def test_one_name_in_two_unicode_spellings_is_one_person(ledger):
    reserve(ledger, "r1", ["Zoe\u0301"])
    assert reserve(ledger, "r2", ["Zo\u00e9"]).epsilon_after == pytest.approx(rdp_epsilon(EVENT, EVENT))


def test_a_mapping_finds_the_person_and_is_remembered(ledger):
    ledger.set_cap(source="watch", epsilon=1.2 * rdp_epsilon(EVENT), delta=DELTA)
    reserve(ledger, "r1", ["p1", "p2"])
    with pytest.raises(BudgetExceeded):
        reserve(ledger, "r2", ["x1"], source="copy", mapping={"x1": "p1", "x7": "p2"}, mapping_source="watch")
    assert reserve(ledger, "r3", ["x1"], source="copy").epsilon_after == pytest.approx(rdp_epsilon(EVENT))
    ledger.set_cap(source="watch", epsilon=math.inf, delta=DELTA)
    reserve(ledger, "r4", ["x1", "x2"], source="copy", mapping={"x1": "p1"}, mapping_source="watch")
    three = rdp_epsilon(EVENT, EVENT, EVENT)
    assert spent(ledger, persons=["p1"]).epsilon == pytest.approx(three)
    assert reserve(ledger, "r5", ["x1"], source="copy").epsilon_after == pytest.approx(rdp_epsilon(*[EVENT] * 4))
    chained = reserve(ledger, "r6", ["y1"], source="third", mapping={"y1": "x1"}, mapping_source="copy")
    assert chained.epsilon_after == pytest.approx(rdp_epsilon(*[EVENT] * 5))


@pytest.mark.parametrize(
    ("persons", "mapping", "words"),
    [
        (["n1", "p1"], {"n1": "p1"}, "same person"),
        (["n1"], {"n1": "p2"}, "another person"),
        (["p1"], {"p1": "n1"}, "circle"),
    ],
)
def test_bad_mappings_are_refused_and_leave_nothing(ledger, persons, mapping, words):
    reserve(ledger, "r1", ["n1"], mapping={"n1": "p1"})
    head = ledger.head()
    with pytest.raises(MienError, match=words):
        reserve(ledger, "r2", persons, mapping=mapping)
    assert ledger.head() == head
    assert ledger.status("r2") is None
    assert ledger.verify() == []


# --- reserving and settling ---------------------------------------------------------------------------------------
def test_the_same_run_id_is_charged_once(path, ledger):
    first = reserve(ledger, "r1")
    reserve(ledger, "r2")
    assert reserve(ledger, "r1") == first
    with Ledger.open(path) as again:
        assert reserve(again, "r1") == first
    assert spent(ledger).epsilon == pytest.approx(rdp_epsilon(EVENT, EVENT))
    for more in ({"events": [OTHER]}, {"persons": ["p1"]}, {"source": "wesad"}, {"cap": 9.0}):
        with pytest.raises(MienError, match="other content"):
            reserve(ledger, "r1", **more)
    with pytest.raises(MienError, match="other content"):
        ledger.plain(run="r1", source="watch", persons=["p1", "p2"])


def test_settling_lowers_and_never_raises(ledger):
    reserve(ledger, "r1", events=[EVENT, OTHER])
    full = spent(ledger).epsilon
    for wrong in ([steps(EVENT, 401)], [EVENT, steps(EVENT, 1)], [dataclasses.replace(EVENT, noise_multiplier=2.1)]):
        with pytest.raises(MienError, match="cannot settle"):
            ledger.settle("r1", wrong)
    assert spent(ledger).epsilon == full  # a run that died counts in full
    assert (ledger.status("r1"), spent(ledger).unsettled) == ("reserved", 1)
    receipt = ledger.settle("r1", [steps(EVENT, 10)])
    assert receipt.epsilon_after == pytest.approx(rdp_epsilon(steps(EVENT, 10)))
    assert (receipt.seq, receipt.head) == ledger.head()
    assert ledger.settle("r1", [steps(EVENT, 10)]) == receipt
    assert (ledger.status("r1"), spent(ledger).unsettled) == ("settled", 0)
    with pytest.raises(MienError, match="that stands"):
        ledger.settle("r1", [])
    with pytest.raises(MienError, match="another charge"):
        reserve(ledger, "r1", events=[EVENT, OTHER])
    with pytest.raises(MienError, match="no reservation"):
        ledger.settle("r9", [])


# --- the cap ------------------------------------------------------------------------------------------------------
def test_a_cap_refuses_and_charges_nothing(ledger):
    two = rdp_epsilon(EVENT, EVENT)
    reserve(ledger, "r1", cap=1.01 * two)
    reserve(ledger, "r2", ["p2", "p3"])
    head = ledger.head()
    for persons in (["p2"], ["p2", "new"]):
        with pytest.raises(BudgetExceeded, match="past the cap"):
            reserve(ledger, "r3", persons)
    assert ledger.head() == head
    reserve(ledger, "r3", ["new", "p3"])  # who has spent less may go on
    ledger.settle("r2", [])
    reserve(ledger, "r4", ["p2"])


def test_the_first_cap_binds_until_an_operator_changes_it(ledger):
    one = rdp_epsilon(EVENT)
    reserve(ledger, "r1", cap=1.1 * one)
    for more in ({}, {"cap": 100.0}):  # leaving it out or raising it does not help
        with pytest.raises(BudgetExceeded):
            reserve(ledger, "r2", **more)
    ledger.set_cap(source="watch", epsilon=4 * one, delta=DELTA)
    with pytest.raises(BudgetExceeded):
        reserve(ledger, "r2", cap=1.2 * one)  # its own is stricter
    reserve(ledger, "r2")
    assert spent(ledger).cap == 4 * one
    with pytest.raises(MienError, match="held at delta"):
        ledger.reserve(run="r3", source="watch", persons=["p1"], events=[EVENT], delta=1e-6)
    ledger.set_cap(source="watch", epsilon=0.1, delta=DELTA)
    with pytest.raises(BudgetExceeded):
        reserve(ledger, "r3", ["p1"], [steps(EVENT, 1)])
    ledger.set_cap(source="watch", epsilon=math.inf, delta=DELTA)
    reserve(ledger, "r3", cap=50.0)
    assert spent(ledger).cap is None  # lifted by an operator: a reservation does not bring it back
    reserve(ledger, "r4")


def test_the_ledgers_cap_holds_for_sources_without_their_own(ledger):
    ledger.set_cap(source=None, epsilon=0.9 * rdp_epsilon(EVENT), delta=DELTA)
    ledger.set_cap(source="wesad", epsilon=9.0, delta=DELTA)
    with pytest.raises(BudgetExceeded):
        reserve(ledger, "r1")
    with pytest.raises(BudgetExceeded):
        reserve(ledger, "r1", cap=99.0)
    reserve(ledger, "r1", source="wesad")


def test_a_plain_run_is_infinite(ledger):
    assert ledger.plain(run="r1", source="watch", persons=["p1"]).epsilon_after == math.inf
    assert ledger.plain(run="r1", source="watch", persons=["p1"]).seq == 2
    assert reserve(ledger, "r2").epsilon_after == math.inf
    found = spent(ledger)
    assert (found.plain, found.epsilon, found.epsilon_pld, found.naive) == (True, math.inf, math.inf, math.inf)
    clean = spent(ledger, persons=["p2"])
    assert (clean.plain, clean.epsilon) == (False, pytest.approx(rdp_epsilon(EVENT)))
    with pytest.raises(BudgetExceeded):
        reserve(ledger, "r3", cap=1e9)
    reserve(ledger, "r4", ["p2"], cap=1e9)
    with pytest.raises(BudgetExceeded):
        ledger.plain(run="r5", source="watch", persons=["p2"])
    assert ledger.status("r5") is None


def test_noise_that_hides_nothing_passes_no_cap(ledger):
    bare = Event(sample_rate=1.0, noise_multiplier=1e-6, steps=1)
    with pytest.raises(BudgetExceeded):
        reserve(ledger, "r1", events=[bare], cap=1e9)
    assert reserve(ledger, "r1", events=[bare]).epsilon_after > 1e9


# --- the file -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE events SET body = '{}' WHERE seq = 2",
        "DELETE FROM events WHERE seq = 3",
        "DELETE FROM sets",
        "UPDATE sets SET members = x'00'",
        "INSERT OR REPLACE INTO events SELECT seq, at, run, kind, '{}', prev, hash FROM events WHERE seq = 2",
        "INSERT OR REPLACE INTO events SELECT seq + 2, at, run, kind, '{}', prev, hash FROM events WHERE seq = 2",
        "INSERT OR REPLACE INTO sets SELECT hash, x'00' FROM sets",
        "INSERT INTO events VALUES (0, '', NULL, 'cap', '{}', '', '')",
    ],
)
def test_triggers_refuse_changes(path, ledger, statement):
    reserve(ledger, "r1")
    reserve(ledger, "r2")
    with sqlite3.connect(path) as db, pytest.raises(sqlite3.IntegrityError, match="append-only"):
        db.execute(statement)
    db.close()
    assert ledger.verify() == []


def edit(path, *statements):
    """What somebody with the file and SQLite can do: triggers off, change, triggers on again."""
    db = sqlite3.connect(path)
    triggers = db.execute("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'").fetchall()
    for name, _ in triggers:
        db.execute(f"DROP TRIGGER {name}")
    for statement in statements:
        db.execute(statement)
    for _, sql in triggers:
        db.execute(sql)
    db.commit()
    db.close()


@pytest.mark.parametrize(
    ("statement", "words", "opens"),
    [
        ("UPDATE events SET body = replace(body, '400', '4') WHERE seq = 2", "chain breaks at entry 2", False),
        ("UPDATE events SET at = '2020-01-01T00:00:00+00:00' WHERE seq = 3", "chain breaks at entry 3", False),
        ("UPDATE events SET kind = 'cap' WHERE seq = 2", "chain breaks at entry 2", False),
        ("DELETE FROM events WHERE seq = 2", "chain breaks at entry 2", False),
        ("DELETE FROM events WHERE seq = 3", "older copy", False),
        ("DELETE FROM events", "ends at entry 0", False),
        ("UPDATE sets SET members = x'0011223344556677'", "person set", True),
        ("DELETE FROM sets", "person set", True),
        ("CREATE TRIGGER mine AFTER INSERT ON events BEGIN DELETE FROM sets; END", "does not belong", False),
    ],
)
def test_edits_behind_the_triggers_are_found(path, ledger, statement, words, opens):
    reserve(ledger, "r1")
    reserve(ledger, "r2")
    edit(path, statement)
    assert any(words in problem for problem in ledger.verify())
    assert ledger_cli.verify_command(["--ledger", str(path)]) == 1
    if opens:
        with Ledger.open(path) as again, pytest.raises(MienError, match=words):
            reserve(again, "r3", ["p1"])
    else:
        with pytest.raises(MienError, match=words):
            Ledger.open(path)


def test_a_missing_trigger_is_found(path, ledger):
    db = sqlite3.connect(path)
    db.execute("DROP TRIGGER events_update")
    db.commit()
    db.close()
    assert any("events_update" in problem for problem in ledger.verify())
    with pytest.raises(MienError, match="events_update"):
        Ledger.open(path)


def test_a_rollback_is_noticed(path, tmp_path):
    with Ledger.open(path) as ledger:
        first = reserve(ledger, "r1")
    old = tmp_path / "old"
    shutil.copytree(path.parent, old)
    with Ledger.open(path) as ledger:
        second = reserve(ledger, "r2")
        ledger.check_anchor(first.seq, first.head)
        ledger.check_anchor(second.seq, second.head)
        with pytest.raises(MienError, match="another history"):
            ledger.check_anchor(first.seq, second.head)
        with pytest.raises(MienError, match="older copy"):
            ledger.check_anchor(second.seq + 1, second.head)
    shutil.copy(old / path.name, path)
    with pytest.raises(MienError, match="older copy"):
        Ledger.open(path)
    anchor = f"{second.seq}:{second.head}"
    assert ledger_cli.verify_command(["--ledger", str(path), "--anchor", anchor]) == 1
    # the whole folder put back: only an anchor kept elsewhere tells
    assert ledger_cli.verify_command(["--ledger", str(old / path.name)]) == 0
    assert ledger_cli.verify_command(["--ledger", str(old / path.name), "--anchor", anchor]) == 1
    path.with_name("ledger.sqlite.anchor").unlink()
    with pytest.raises(MienError, match="anchor is missing or empty"):
        Ledger.open(path)
    path.unlink()
    path.with_name("ledger.sqlite.anchor").write_text(anchor)
    os.chmod(path.with_name("ledger.sqlite.anchor"), 0o600)
    with pytest.raises(MienError, match="put the ledger back"):
        Ledger.open(path)


def test_a_kill_between_commit_and_anchor_is_repaired(path):
    with Ledger.open(path) as ledger:
        first = reserve(ledger, "r1")
        second = reserve(ledger, "r2")
    anchor = path.with_name("ledger.sqlite.anchor")
    anchor.write_text(f"{first.seq:012d}:{first.head}\n")
    with Ledger.open(path) as ledger:
        assert ledger.verify() == []
    assert anchor.read_text() == f"{second.seq:012d}:{second.head}\n"


def test_modes_and_place(path, ledger, monkeypatch):
    reserve(ledger, "r1")
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert {stat.S_IMODE(f.stat().st_mode) for f in path.parent.iterdir()} == {0o600}
    assert len(list(path.parent.iterdir())) == 5
    monkeypatch.delenv("MIEN_LEDGER", raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", "/data")
    assert ledger_path() == Path("/data/mien/ledger.sqlite")
    monkeypatch.delenv("XDG_DATA_HOME")
    assert ledger_path() == Path.home() / ".local/share/mien/ledger.sqlite"
    monkeypatch.setenv("MIEN_LEDGER", "/x/y")
    assert ledger_path() == Path("/x/y")


def test_neither_file_nor_export_holds_an_id(path, ledger):
    reserve(ledger, "r1", ["participant-17"], mapping={"participant-17": "patient-4"})
    ledger.close()
    assert not [f for f in path.parent.iterdir() if b"participant" in f.read_bytes() or b"patient" in f.read_bytes()]
    with Ledger.open(path) as again:
        entries = again.export()
        blob = again._db.execute("SELECT members FROM sets").fetchone()[0]
        keyed = again._set("watch", ["participant-17"], {}, "watch")[0]
    assert entries[1] | {"at": "", "hash": ""} == {
        "seq": 2, "at": "", "run": "r1", "kind": "reserve", "source": "watch", "events": [EVENT.to_json()],
        "delta": DELTA, "cap": None, "note": "", "cohort": 1, "persons": 1, "mapped": True, "hash": "",
    }  # fmt: skip
    assert keyed.hex() not in json.dumps(entries)
    assert len(blob) in (8, 16)


def damage(kind, path):
    key, anchor = path.with_name("ledger.sqlite.key"), path.with_name("ledger.sqlite.anchor")
    if kind == "key gone":
        key.unlink()
    elif kind == "other key":
        key.write_bytes(bytes(32))
    elif kind == "short key":
        key.write_bytes(b"abc")
    elif kind in ("db open to others", "key open to others", "anchor open to others"):
        {"db": path, "key": key, "anchor": anchor}[kind.split()[0]].chmod(0o644)
    elif kind == "no database":
        path.write_bytes(b"hello, this is a text" * 100)
    elif kind == "torn page":
        raw = bytearray(path.read_bytes())
        raw[4096 : 4096 + 2048] = bytes(2048)
        path.write_bytes(raw)
    elif kind == "cut file":
        path.write_bytes(path.read_bytes()[:4096])
    elif kind == "empty file":
        path.write_bytes(b"")
    elif kind == "anchor garbled":
        anchor.write_text("12:xyz")
    elif kind in ("older", "newer"):
        db = sqlite3.connect(path)
        db.execute(f"PRAGMA user_version = {0 if kind == 'older' else 7}")
        db.close()
    elif kind == "foreign":
        for f in path.parent.iterdir():
            f.unlink()
        db = sqlite3.connect(path)
        db.execute("CREATE TABLE t (x)")
        db.close()
        path.chmod(0o600)
        key.write_bytes(bytes(32))
        key.chmod(0o600)
    elif kind == "folder":
        path.unlink()
        path.mkdir()


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("key gone", "key is missing"),
        ("other key", "not the key"),
        ("short key", "3 bytes"),
        ("db open to others", "chmod 600"),
        ("key open to others", "chmod 600"),
        ("anchor open to others", "chmod 600"),
        ("no database", "damaged or no ledger"),
        ("torn page", "damaged|chain|anchor|key"),
        ("cut file", "damaged or no ledger"),
        ("empty file", "put the ledger back"),
        ("anchor garbled", "SEQ:HASH"),
        ("older", "version 0"),
        ("newer", "update mien"),
        ("foreign", "no Mien ledger"),
        ("folder", "is a folder"),
    ],
)
def test_bad_files_are_refused_in_words(path, kind, words):
    with Ledger.open(path) as ledger:
        reserve(ledger, "r1")
    damage(kind, path)
    with pytest.raises(MienError, match=words):
        Ledger.open(path)


def test_a_locked_ledger_says_so(path, ledger, monkeypatch):
    monkeypatch.setattr(module, "BUSY_S", 0.05)
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("BEGIN IMMEDIATE")
    with Ledger.open(path) as second, pytest.raises(MienError, match="another process has held it"):
        reserve(second, "r1")
    db.execute("ROLLBACK")
    db.close()
    reserve(ledger, "r1")


def test_a_read_only_ledger_says_so(path, ledger, monkeypatch):
    ledger._db.execute("PRAGMA query_only = ON")  # modes do not stop root, who may run this test
    with pytest.raises(MienError, match="cannot be written"):
        reserve(ledger, "r1")
    blocked = path.parent / "file"
    blocked.write_text("")
    with pytest.raises(MienError, match="cannot make the ledger's folder"):
        Ledger.open(blocked / "ledger.sqlite")


MOUNTS = (
    "/dev/sda1 / ext4 rw 0 0\nhost:/export /home nfs4 rw 0 0\ntmpfs /home/me/fast tmpfs rw 0 0\n"
    "me@host: /mnt/my\\040disk fuse.sshfs rw 0 0\nC: /mnt/c 9p rw 0 0\n//nas/x /nas cifs rw 0 0\n"
)


@pytest.mark.parametrize(
    ("folder", "kind", "refused"),
    [
        ("/srv/a", "ext4", False),
        ("/home/me", "nfs4", True),
        ("/homework", "ext4", False),
        ("/home/me/fast/x", "tmpfs", False),
        ("/mnt/my disk/x", "fuse.sshfs", True),
        ("/mnt/c/Users", "9p", True),
        ("/nas", "cifs", True),
    ],
)
def test_network_file_systems(folder, kind, refused, monkeypatch, tmp_path):
    assert module._filesystem(Path(folder), MOUNTS) == kind
    assert bool(module._NETWORK.fullmatch(kind)) == refused
    monkeypatch.setattr(module, "_mounts", lambda: f"x {tmp_path} {kind} rw 0 0\n")
    if refused:
        with pytest.raises(MienError, match="network file system"):
            Ledger.open(tmp_path / "l.sqlite")
        assert not (tmp_path / "l.sqlite").exists()
    else:
        Ledger.open(tmp_path / "l.sqlite").close()


BAD_NUMBERS = [math.nan, -1.0, 0.0, math.inf, 5e-324, True, "1", None]
BAD = [
    *[({"delta": v}, "delta") for v in [*BAD_NUMBERS, 1.0, 1e-13]],
    *[({"cap": v}, "cap") for v in BAD_NUMBERS if v is not None],
    ({"run": ""}, "run"),
    ({"run": "a\nb"}, "run"),
    ({"source": " "}, "source"),
    ({"persons": []}, "persons"),
    ({"persons": "p1"}, "persons"),
    ({"persons": ["p1", ""]}, "person's id"),
    ({"persons": ["p1", 2]}, "person's id"),
    ({"events": []}, "no steps"),
    ({"events": [steps(EVENT, 0)]}, "no steps"),
    ({"events": [(0.05, 2.0, 400)]}, "privacy events"),
]


@pytest.mark.parametrize(("wrong", "words"), BAD, ids=[str(w) for w, _ in BAD])
def test_bad_requests_are_refused_in_words(ledger, wrong, words):
    good = {"run": "r", "source": "watch", "persons": ["p1"], "events": [EVENT], "delta": DELTA}
    with pytest.raises(MienError, match=words):
        ledger.reserve(**{**good, **wrong})
    assert ledger.head()[0] == 1


@pytest.mark.parametrize("value", BAD_NUMBERS)
def test_bad_caps_are_refused_in_words(ledger, value):
    if value != math.inf:
        with pytest.raises(MienError, match="epsilon"):
            ledger.set_cap(source=None, epsilon=value, delta=DELTA)
    with pytest.raises(MienError, match="delta"):
        ledger.set_cap(source=None, epsilon=1.0, delta=value)


# --- many processes -----------------------------------------------------------------------------------------------
def drawn(run):
    rng = random.Random(run)
    return [f"p{p}" for p in range(6) if rng.random() < 0.6] or ["p0"], [steps(EVENT, rng.randint(50, 400))]


def worker(path, number, cap, doomed):
    rng = random.Random(number)
    with Ledger.open(path) as ledger:
        for i in itertools.count() if doomed else range(5):  # the doomed go on until they are killed
            run = f"w{number}-{i}"
            persons, events = drawn(run)
            try:
                reserve(ledger, run, persons, events, cap=cap)
            except BudgetExceeded:
                continue
            time.sleep(rng.random() * 0.02)
            if rng.random() < 0.6:
                ledger.settle(run, [steps(EVENT, rng.randint(0, 50))])


def test_sixteen_processes_under_fire_never_pass_the_cap(path):
    """Sixteen make and use the ledger at once; half of them are killed at random moments."""
    cap = 1.01 * rdp_epsilon(*[EVENT] * 3)  # this also warms up what the children inherit
    context = multiprocessing.get_context("fork")
    rng = random.Random(7)
    doomed = set(rng.sample(range(16), 8))
    children = [context.Process(target=worker, args=(path, n, cap, n in doomed)) for n in range(16)]
    for child in children:
        child.start()
    for child in (children[n] for n in doomed):
        time.sleep(rng.random() * 0.04)
        os.kill(child.pid, signal.SIGKILL)
    for child in children:
        child.join(60)
    codes = [c.exitcode for c in children]
    assert [c == -signal.SIGKILL for c in codes] == [n in doomed for n in range(16)], codes
    with Ledger.open(path) as ledger:
        assert ledger.verify() == []
        entries = [e for e in ledger.export() if e["kind"] in ("reserve", "settle")]
        now = spent(ledger, pld=False).epsilon
    charged = {}  # after every single entry, by a list per person, nobody is past the cap
    for entry in entries:
        charged[entry["run"]] = [Event.from_json(e) for e in entry["events"]]
        owed = {f"p{p}": [] for p in range(6)}
        for run, events in charged.items():
            for p in drawn(run)[0]:
                owed[p] += events
        most = max(capped_epsilon(cap, *events) for events in owed.values())
        assert most <= cap
    assert now == pytest.approx(most, rel=1e-7)
    assert len(charged) >= 8


def test_a_caps_order_is_fixed_beforehand():
    """Whoever picks the best order afterwards lets what was released choose it; the cap alone decides here."""
    for cap in (0.5, 3.0, 8.0, 50.0):
        at = module.order_for(cap, DELTA)
        assert at == module.order_for(cap, DELTA)
        gaussian = Event(sample_rate=1.0, noise_multiplier=5.0, steps=1)
        orders, values = module.rdp([gaussian])
        # where a Gaussian uses the whole cap, no other order would have allowed noticeably more of it
        room = [
            (cap - (math.log1p(-1 / a) - math.log(DELTA * a) / (a - 1))) / v
            for a, v in zip(orders, values, strict=True)
        ]
        assert room[at] == max(room)


# --- the commands -------------------------------------------------------------------------------------------------
def test_commands(path, capsys):
    at = ["--ledger", str(path)]
    plan = [*at, *["--sample-rate", ".05", "--noise-multiplier", "2", "--steps", "400", "--json"]]
    assert ledger_cli.status_command(at) == 0
    assert "no ledger" in capsys.readouterr().out
    assert ledger_cli.plan_command([*plan, "--times", "2"]) == 0
    assert not path.exists()  # looking makes no ledger
    answer = json.loads(capsys.readouterr().out)
    assert answer["after"]["epsilon"] == pytest.approx(rdp_epsilon(EVENT, EVENT))
    cap = 1.01 * rdp_epsilon(*[EVENT] * 3)
    assert ledger_cli.cap_command([*at, "--source", "watch", "--epsilon", str(cap)]) == 0
    with Ledger.open(path) as ledger:
        reserve(ledger, "r1")
        ledger.plain(run="r2", source="wesad", persons=["a"])
    capsys.readouterr()
    for times, code in ((1, 0), (2, 0), (3, 3)):
        assert ledger_cli.plan_command([*plan, "--source", "watch", "--times", str(times)]) == code
        answer = json.loads(capsys.readouterr().out)
        assert (answer["fits"], answer["passes_cap"]) == (2, code == 3)
        assert answer["after"]["epsilon"] == pytest.approx(capped_epsilon(cap, *[EVENT] * (1 + times)))
        assert answer["after"]["naive"] == pytest.approx((1 + times) * epsilon([EVENT], DELTA))
    assert ledger_cli.plan_command([*plan, "--source", "watch", "--cap", "0.1"]) == 3
    assert json.loads(capsys.readouterr().out)["fits"] == 0
    assert ledger_cli.plan_command([a for a in plan if a != "--json"]) == 0
    assert ledger_cli.status_command([*at, "--json"]) == 0
    assert ledger_cli.status_command(at) == 0
    out = capsys.readouterr().out
    assert "plain run" in out
    assert "r1" in out
    assert ledger_cli.status_command([*at, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert {s["source"]: s["epsilon"] for s in answer["sources"]}["wesad"] == "inf"
    assert [(r["run"], r["state"]) for r in answer["runs"]] == [("r1", "reserved"), ("r2", "plain")]
    assert ledger_cli.verify_command([*at, "--anchor", ":".join(map(str, answer["head"]))]) == 0
    with pytest.raises(MienError, match="SEQ:HASH"):
        ledger_cli.verify_command([*at, "--anchor", "12"])
    capsys.readouterr()
    assert ledger_cli.export_command(at) == 0
    assert [e["kind"] for e in json.loads(capsys.readouterr().out)] == ["genesis", "cap", "reserve", "plain"]


def test_a_cap_that_binds_nobody_says_so(path, capsys):
    """A source one letter off: the cap is recorded, for a study may come yet, and whoever reads the line knows."""
    at = ["--ledger", str(path)]
    with Ledger.open(path) as ledger:
        reserve(ledger, "r1")
    for call, more in (
        (ledger_cli.cap_command, ["--epsilon", "30"]), (ledger_cli.status_command, []),
        (ledger_cli.plan_command, ["--sample-rate", ".05", "--noise-multiplier", "2", "--steps", "400"]),
    ):  # fmt: skip
        capsys.readouterr()
        assert call([*at, "--source", "wacth", *more]) == 0
        said = "".join(capsys.readouterr())
        assert "nothing was ever charged to a source 'wacth'" in said
        assert "watch" in said
        assert call([*at, "--source", "watch", *more]) == 0
        assert "nothing was ever charged" not in "".join(capsys.readouterr())
