"""StudentLife's official layout, invented: four persons whose every event is known, and the traps of real copies."""

import hashlib
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mien.core.errors import MienError
from mien.core.records import Events, Signal
from mien.data import commands, features
from mien.data.datasets import studentlife

T, H = 1364184000, 3600  # Monday 25 March 2013, 00:00 in Hanover
CALLS = (
    "CALLS__id", "CALLS_date", "CALLS_duration", "CALLS_name", "CALLS_number", "CALLS_numberlabel", "CALLS_numbertype",
    "CALLS_type",
)  # fmt: skip
MESSAGES = (
    "MESSAGES_address", "MESSAGES_body", "MESSAGES_date", "MESSAGES_locked", "MESSAGES_protocol", "MESSAGES_type"
)  # fmt: skip
ITEMS = [f"item {i}" for i in range(7)] + ["Feeling down, depressed, hopeless.", "Thoughts"]
WORDS = ("Not at all", "Several days", "More than half the days", "Nearly every day")


def hashed(number: str) -> str:
    return f'"{{""ONE_WAY_HASH"":""{hashlib.sha1(number.encode()).hexdigest()}""}}"'


def rounded(stamp: float) -> str:
    """A date in ms as spreadsheets leave it, good to 83 minutes."""
    return f"{stamp * 1000:.5E}".replace("E+0", "E+")


def call(hour: float, kind, number: str, seconds=60, n=1, date: str | None = None) -> dict[str, str]:
    return {
        "timestamp": str(round(T + hour * H)), "CALLS__id": str(n), "CALLS_duration": str(seconds),
        "CALLS_number": hashed(number), "CALLS_type": str(kind), "CALLS_name": hashed("Bob"),
        "CALLS_date": rounded(T + hour * H) if date is None else date,
    }  # fmt: skip


def message(hour: float, kind: int, number: str, body: str = "hi") -> dict[str, str]:
    return {
        "timestamp": str(round(T + hour * H)), "MESSAGES_address": hashed(number), "MESSAGES_body": hashed(body),
        "MESSAGES_type": str(kind), "MESSAGES_date": rounded(T + hour * H),
    }  # fmt: skip


def poll(hour: float) -> dict[str, str]:
    return {"timestamp": str(round(T + hour * H))}


def log(file: Path, names: tuple[str, ...], rows: list[dict[str, str]], mark: str = ",", bom: bool = True) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    head = ("id", "device", "timestamp", *names)
    cells = [{"id": f"a-{i}", "device": "d"} | r for i, r in enumerate(rows)]
    lines = [mark.join(head), *(mark.join(c.get(n, "") for n in head) for c in cells)]
    file.write_text(("\ufeff" if bom else "") + "\n".join(lines) + "\n")


def spans(root: Path, kind: str, person: str, hours: list[tuple[float, float]]) -> None:
    """Stretches in hours after T, with the rows of commas that the real files have."""
    folder = {"locked": "phonelock", "charging": "phonecharge"}.get(kind, kind)
    head = "start_timestamp, end_timestamp" if kind == "conversation" else "start,end"
    rows = [f"{round(T + a * H)},{round(T + b * H)}\n,\n" for a, b in hours]
    file = root / "sensing" / folder / f"{folder}_{person}.csv"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(head + "\n" + "".join(rows))


def activity(root: Path, person: str, at: dict[float, str]) -> None:
    file = root / "sensing" / "activity" / f"activity_{person}.csv"
    file.parent.mkdir(parents=True, exist_ok=True)
    rows = [f"{round(T + h * H) + 2 * i},{c}\n,\n" for h, codes in at.items() for i, c in enumerate(codes)]
    file.write_text("timestamp, activity inference\n" + "".join(rows))


def stress(root: Path, person: str, answers: list) -> None:
    file = root / "EMA" / "response" / "Stress" / f"Stress_{person}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(answers))


def answer(hour: float, level: str) -> dict:
    return {"level": level, "location": "43.70,-72.28", "resp_time": round(T + hour * H)}


def survey(root: Path, rows: list[tuple[str, str, list[int]]]) -> None:
    head = ",".join(["uid", "type", *(f'"{i}"' for i in ITEMS), "Response"])
    lines = [",".join([u, t, *(WORDS[a] if a >= 0 else "" for a in items), "Not difficult at all"]) for u, t, items in rows]  # fmt: skip
    (root / "survey").mkdir(exist_ok=True)
    (root / "survey" / "PHQ-9.csv").write_text("\n".join([head, *lines]) + "\n")


U00_CALLS = [
    poll(0.01), call(40, 3, "A", 0), call(10, 1, "A", 60), call(11, 2, "B", 30), poll(200),  # not in order
]  # fmt: skip


@pytest.fixture
def copy(home) -> Path:
    root = home / "dataset"
    log(root / "call_log" / "call_log_u00.csv", CALLS, U00_CALLS, mark="\t", bom=False)
    log(root / "call_log" / "call_log_u01.csv", (), [poll(h) for h in range(5)])  # a phone that nobody called with
    log(root / "call_log" / "call_log_u02.csv", CALLS, [poll(1), call(30, 2, "B"), poll(400)])
    log(root / "sms" / "sms_u00.csv", MESSAGES, [message(9, 1, "B"), message(12.01, 2, "A"), poll(100), message(11, 1, "C")])  # fmt: skip
    log(root / "sms" / "sms_u02.csv", MESSAGES, [poll(1), message(31, 1, "A"), poll(400)])
    spans(root, "conversation", "u00", [(2, 2.5), (8, 8.5), (5.5, 6.5), (190, 190.1)])
    spans(root, "conversation", "u01", [(1, 2), (50, 51)])
    spans(root, "locked", "u00", [(1, 7), (9, 20)])
    activity(root, "u00", {6: "0013", 7: "22", 11.99: "1"})
    activity(root, "u04", {3: "0"})
    stress(root, "u00", [
        {"null": "43.7,-72.2", "resp_time": T + 5 * H}, {"null": "1", "resp_time": T + 5 * H},
        answer(48, "3"), answer(12.02, "5"), answer(100, "1"),
    ])  # fmt: skip
    stress(root, "u01", [answer(20, "4"), answer(3000, "2")])
    stress(root, "u02", [answer(36, "2")])
    stress(root, "u03", [answer(36, "2")])  # of whom there is nothing else
    survey(root, [
        ("u00", "pre", [0] * 9), ("u00", "post", [2] * 5 + [0] * 4), ("u01", "post", [1] * 9), ("u02", "pre", [3] * 9)
    ])  # fmt: skip
    return root


def read(root, **options):
    return studentlife.load(studentlife.Config(root=str(root), **options))


def hours(events: Events) -> list[float]:
    return [round(t / H, 2) for t in events.times_s]


def test_the_hours_before_an_answer_hold_what_happened_in_them(copy, capsys):
    cohort = read(copy)
    assert [r.id.removeprefix("studentlife-") for r in cohort] == [
        "u00-000",
        "u00-001",
        "u00-002",
        "u01-000",
        "u02-000",
    ]
    r = cohort[0]  # from 6 to 12 o'clock
    assert (r.person, r.start_s, r.seconds) == ("studentlife-u00", 6 * H, 6 * H)
    calls, messages, talk, moved = (r.streams[n] for n in ("calls", "messages", "conversation", "activity"))
    assert (hours(calls), calls.durations_s.tolist(), calls.codes.tolist()) == ([4, 5], [60, 30], [0, 1])
    assert (hours(messages), messages.codes.tolist()) == ([3, 5], [0, 0])  # the sent one is after the full ten minutes
    assert (messages.offset_s, messages.seconds) == (3 * H, 3 * H)  # nothing is known before the first
    assert (hours(talk), talk.durations_s.tolist()) == ([2], [1800])  # what began before it is not in
    assert isinstance(moved, Signal)
    assert moved.values.shape == (36, 3)
    assert moved.valid is not None
    assert np.flatnonzero(moved.valid).tolist() == [0, 6, 35]
    assert moved.values[moved.valid].tolist() == [[0.5, 0.25, 0], [0, 0, 1], [0, 1, 0]]
    assert dict(r.labels) == {
        "stress": "great", "stressed": "no", "phq9": 10.0, "phq9_pre": 0.0, "depression": "yes"
    }  # fmt: skip
    assert dict(r.attributes) == {}
    assert hours(cohort[1].streams["calls"]) == []  # observed, and nobody called
    assert "calls" not in cohort[3].streams  # a log that never holds a call says nothing
    assert set(cohort[2].streams) == {"calls", "messages", "conversation"}  # of activity there is not one inference
    assert (cohort[3].labels["depression"], cohort[3].labels["phq9"]) == ("no", 9.0)
    assert "depression" not in cohort[4].labels
    said = capsys.readouterr().out
    for why in (
        "1 person(s) with answers and without any stream", "2 answer(s) about stress under the key", "1 log(s) without any calls",
        "1 week(s) or answer(s) of which nothing", "1 person(s) without an answer", "1 recording(s) of persons without a PHQ-9",
    ):  # fmt: skip
        assert why in said, said
    assert "location" not in str(cohort.card.to_json())


@pytest.mark.parametrize(
    ("level", "named", "stressed"),
    [("5", "great", "no"), ("4", "good", "no"), ("1", "a_little", "yes"), ("2", "definitely", "yes"), ("3", "stressed_out", "yes")],
)  # fmt: skip
def test_the_numbers_of_the_questionnaire_are_not_in_order(copy, level, named, stressed):
    stress(copy, "u00", [answer(12, level)])
    first = read(copy)[0]
    assert (first.labels["stress"], first.labels["stressed"]) == (named, stressed)
    assert studentlife.STRESS.index(named) == [5, 4, 1, 2, 3].index(int(level))


def test_a_number_becomes_the_persons_first_second_third_and_nothing_else(copy):
    cohort = read(copy, hours=48)
    until = cohort[1].streams  # of u00, all of two days: B writes, A calls, B is called, C writes, A is written to
    assert until["messages"].party.tolist() == [0, 2, 1]
    assert until["calls"].party.tolist() == [1, 0, 1]
    other = next(r for r in cohort if r.person == "studentlife-u02").streams
    assert (other["calls"].party.tolist(), other["messages"].party.tolist()) == ([0], [1])  # B and A: their own numbers
    shards = [f.read_bytes() for f in (copy.parent / "cache").rglob("*.parquet")]
    assert shards
    for whom in ("A", "B", "Bob", "hi"):
        digest = hashlib.sha1(whom.encode()).hexdigest().encode()
        assert not any(digest in s for s in shards)


@pytest.mark.parametrize("number", ["", "-1", "-2"])
def test_a_withheld_number_is_nobodys(copy, number):
    log(copy / "call_log" / "call_log_u02.csv", CALLS, [poll(1), call(30, 1, number), call(31, 1, "B"), poll(400)])
    calls = next(r for r in read(copy) if r.person == "studentlife-u02").streams["calls"]
    assert calls.party.tolist() == [-1, 0]


def test_weeks_run_from_monday_and_carry_the_score_after_the_term(copy):
    cohort = read(copy, per="week")
    assert [r.id.removeprefix("studentlife-") for r in cohort] == [
        "u00-week-01", "u00-week-02", "u01-week-01", "u02-week-01", "u02-week-02", "u02-week-03", "u04-week-01"
    ]  # fmt: skip
    assert all(r.start_s % 600 == 0 for r in cohort)
    first = cohort[0]
    assert (first.start_s, first.labels["depression"]) == (0, "yes")
    assert hours(first.streams["calls"]) == [10, 11, 40]
    assert hours(first.streams["conversation"]) == [2, 5.5, 8]
    assert first.streams["calls"].seconds == pytest.approx(168 * H - 36)
    assert "stress" not in first.labels
    assert set(cohort.card.tasks) == {"depression"}
    table = features.tabulate(
        cohort, seconds=24 * H, stride_s=24 * H, task="depression", streams=("calls",), valid=0.05
    )
    assert set(table.person) == {"studentlife-u00", "studentlife-u01"}
    assert table.skipped["no label 'depression'"] == 4


def test_a_locked_phone_is_read_when_asked_for(copy):
    locked = read(copy, streams=("locked",))[0].streams["locked"]
    assert (hours(locked), locked.durations_s.tolist()) == (
        [3],
        [3 * H],
    )  # until the answer: what comes later is not known


TRAPS = [  # a row of u00's call log, why it is left out
    (call(20, 1, "A", -5), "1 calls without a duration, or with one below nothing"),
    (call(20, 1, "A", ""), "1 calls without a duration"),
    (call(20, 5, "A"), "1 calls of another type"),
    (call(20, "x", "A"), "1 calls of another type"),
    (call(20, 1, "A", date=str((T + 15 * H) * 1000)), "1 calls whose date is hours from their log entry"),
    (call(20, 1, "A", date=rounded(T - 40 * H)), "1 calls whose date is hours from their log entry"),
    (call(-T / H, 1, "A"), "1 log row(s) without a time"),
    (call(20, 1, "A") | {"timestamp": "soon"}, "1 log row(s) without a time"),
    (call(11, 2, "B", 30) | {"id": "a-3"}, "1 calls twice in one log"),
]  # fmt: skip


@pytest.mark.parametrize(("row", "why"), TRAPS, ids=[w for _, w in TRAPS])
def test_an_impossible_call_is_left_out_and_counted(copy, row, why, capsys):
    log(copy / "call_log" / "call_log_u00.csv", CALLS, [*U00_CALLS, row], mark=";")
    assert hours(read(copy, hours=48)[1].streams["calls"]) == [10, 11, 40]
    assert why in capsys.readouterr().out


def test_a_date_that_is_rounded_or_an_hour_off_is_no_contradiction(copy):
    near = [call(20, 1, "A", date=str(round((T + 19.2 * H) * 1000))), call(21, 1, "A", date=""), call(22, 1, "A", n=2)]
    near.append(call(76000 / H, 1, "A", date="1.36425E+12"))  # 10,000 s before, give or take 5,000
    log(copy / "call_log" / "call_log_u00.csv", CALLS, [*U00_CALLS, *near])
    assert hours(read(copy, hours=48)[1].streams["calls"]) == [10, 11, 20, 21, 21.11, 22, 40]


def test_stretches_and_inferences_that_cannot_be_are_left_out(copy, capsys):
    spans(copy, "conversation", "u00", [(8, 8.5), (10, 9), (11, 1e6), (11.5, 11.6)])
    activity(copy, "u00", {6: "0013", 7: "9", 8: "x", 1e6: "1"})
    r = read(copy)[0]
    assert hours(r.streams["conversation"]) == [2, 5.5]
    assert np.flatnonzero(r.streams["activity"].valid).tolist() == [0]
    said = capsys.readouterr().out
    for why in (
        "1 stretch(es) that end before", "1 stretch(es) without a time", "2 activity row(s) that are none", "1 activity row(s) without"
    ):  # fmt: skip
        assert why in said, said


def test_answers_that_say_nothing_are_left_out(copy, capsys):
    bad = [answer(13, "6"), {"level": "1"}, answer(14, "1"), answer(14, "2"), answer(1e6, "1"), answer(12, "4")]
    bad.append(answer(12, "4"))
    stress(copy, "u00", bad)
    assert [r.labels["stress"] for r in read(copy) if r.person == "studentlife-u00"] == ["good"]
    said = capsys.readouterr().out
    for why in ("1 answer(s) about stress that are none", "2 answer(s) without a time", "1 moment(s) with two answers"):
        assert why in said, said


def test_a_score_with_an_item_left_blank_is_none(copy, capsys):
    survey(copy, [("u00", "post", [3] * 8 + [-1]), ("u01", "post", [1] * 8 + [2])])
    assert [r.labels.get("depression") for r in read(copy, per="week")][:3] == [None, None, "yes"]
    assert "1 PHQ-9 with an item left blank" in capsys.readouterr().out


def put(name: str, raw: bytes):
    return lambda root: (root / name).write_bytes(raw)


def outside(root):
    shutil.move(root / "sensing" / "activity", root.parent / "activity")
    (root / "sensing" / "activity").symlink_to(root.parent / "activity")


def twice(root):
    (root / "sms" / "more").mkdir()
    shutil.copy(root / "sms" / "sms_u00.csv", root / "sms" / "more" / "sms_u00.csv")


LOG, ANSWERS, PHQ = "call_log/call_log_u00.csv", "EMA/response/Stress/Stress_u00.json", "survey/PHQ-9.csv"


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (shutil.rmtree, "no such folder"),
        (lambda root: [shutil.rmtree(p) for p in root.iterdir()], "is it StudentLife"),
        (lambda root: shutil.copytree(root / "sms", root / "again" / "sms"), "holds two of sms"),
        (lambda root: shutil.move(root / "sms", root / "else" / "sms"), "join them"),
        (twice, "u00 is there twice"),
        (outside, "is a link out of"),
        (lambda root: [f.unlink() for f in root.rglob("*.csv")], "holds no file of calls"),
        (lambda root: [f.unlink() for f in root.rglob("Stress_*")], "or take per=week"),
        (put(LOG, b""), "call_log_u00.csv is empty"),
        (put(LOG, b"id|device|timestamp\n1|2|3\n"), "has no column 'id'"),
        (put(LOG, b"id,device,timestamp\n1,2,\xff3\n"), "is not UTF-8"),
        (put(LOG, b"id,device,timestamp\n1,2,3,4,5\n"), "row 2: 5 cells under 3 names"),
        (put(LOG, b"version https://git-lfs.github.com/spec/v1\n"), "LFS pointer"),
        (put("sensing/activity/activity_u00.csv", b"timestamp;what\n1;2\n"), "no column 'activity inference'"),
        (put(ANSWERS, b""), "is not valid JSON"),
        (put(ANSWERS, b"[" * 100_000), "is not valid JSON"),
        (lambda root: os.truncate(root / ANSWERS, (2 << 30) + 1), "over 2 GB"),  # sparse: it takes no disk
        (put(ANSWERS, b"\xff\xfe["), "is not UTF-8"),
        (put(ANSWERS, b'{"level": 1}'), "is not a list of answers"),
        (put(PHQ, b""), "PHQ-9.csv is empty"),
        (put(PHQ, b"uid,type,one,Response\nu00,post,Not at all,x\n"), "has 1 items"),
        (lambda root: survey(root, [("u00", "post", [0] * 9)] * 2), "u00 has two rows of type post"),
        (lambda root: (root / PHQ).write_text((root / PHQ).read_text().replace("Several", "Some")), "'Some days' of u01"),
    ],
)  # fmt: skip
def test_traps_are_refused_by_name(copy, spoil, says):
    spoil(copy)
    with pytest.raises(MienError, match=says) as error:
        read(copy)
    assert "\n" not in str(error.value)


def test_weeks_need_the_survey(copy):
    (copy / PHQ).unlink()
    with pytest.raises(MienError, match=r"holds no survey/PHQ-9.csv"):
        read(copy, per="week")


def test_describe_tells_it(copy, capsys):
    assert commands.describe_command(["studentlife", f"root={copy.parent}"]) == 0
    said = capsys.readouterr().out
    assert "stressed_out 1" in said
    assert "in, out, missed" in said


OF = {
    "calls": LOG, "messages": "sms/sms_u00.csv", "conversation": "sensing/conversation/conversation_u00.csv",
    "activity": "sensing/activity/activity_u00.csv",
}  # fmt: skip
FILES = [f.replace("u00", u) for f in OF.values() for u in ("u00", "u02")] + [
    ANSWERS,
    ANSWERS.replace("u00", "u02"),
    PHQ,
]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(gone=st.sets(st.sampled_from(FILES)))
def test_missing_files_make_a_smaller_cohort_or_a_named_error(copy, tmp_path_factory, gone):
    root = tmp_path_factory.mktemp("sl") / "dataset"
    shutil.copytree(copy, root)
    for file in root.rglob("*_u0[134].*"):
        file.unlink()
    whole = {r.id: r for r in read(root)}
    for name in gone:
        (root / name).unlink(missing_ok=True)
    left: dict[str, set[str]] = {}
    for r in whole.values():
        person = r.person.removeprefix("studentlife-")
        streams = {n for n in r.streams if OF[n].replace("u00", person) not in gone}
        if streams and ANSWERS.replace("u00", person) not in gone:
            left[r.id] = streams
    if not left:
        with pytest.raises(MienError, match=r"holds no|could be read"):
            read(root)
        return
    cohort = read(root)
    assert {r.id: set(r.streams) for r in cohort} == left
    moved: dict[str, set[float]] = {}
    for r in cohort:
        moved.setdefault(r.person, set()).add(whole[r.id].start_s - r.start_s)  # another record may be the first now
        known = {k: v for k, v in whole[r.id].labels.items() if PHQ not in gone or k.startswith("stress")}
        assert dict(r.labels) == known
        for name, s in r.streams.items():
            was = whole[r.id].streams[name]
            if isinstance(s, Events):
                for field in ("times_s", "durations_s", "codes", "seconds", "offset_s"):
                    assert np.array_equal(getattr(s, field), getattr(was, field)), field
                same = [a[:, None] == a[None] for a in (s.party, was.party)]  # who is who; their numbers may move up
                assert np.array_equal(*same)
            else:
                assert np.array_equal(s.values, was.values, equal_nan=True)
    assert all(len(shifts) == 1 for shifts in moved.values())
