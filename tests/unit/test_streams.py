"""Events and text as streams: what they refuse, how they are cut, stored, counted and shown."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from mien.core.errors import MienError
from mien.core.paths import cache_home
from mien.core.records import (
    Cohort,
    CohortCard,
    Consent,
    Events,
    Recording,
    Signal,
    StreamSpec,
    Text,
    Video,
    Window,
    cut,
)
from mien.data import features
from mien.evaluation import pictures

FRAMES = np.random.default_rng(0).integers(0, 256, (6, 4, 5, 3), dtype=np.uint8)
CARD = CohortCard(
    name="days",
    licence="invented",
    consent="invented persons",
    tasks={"mood": ("low", "high")},
    streams={
        "calls": StreamSpec(channels=("in", "out", "missed"), kind="events"),
        "diary": StreamSpec(channels=("participant", "interviewer"), kind="text"),
        "steps": StreamSpec(channels=("steps",), unit="1/min", rate_hz=1 / 60, range=(0, 300)),
    },
)


def events(**change) -> Events:
    fields = {
        "times_s": [10.0, 10.0, 300.5], "durations_s": [0.0, 60.0, 30.0], "codes": [2, 0, 1], "party": [-1, 4, 7],
        "kinds": ("in", "out", "missed"), "seconds": 600.0,
    }  # fmt: skip
    return Events(**(fields | change))


def video(**change) -> Video:
    return Video(**({"frames": FRAMES, "rate_hz": 0.01} | change))


def text(**change) -> Text:
    fields = {
        "times_s": [0.0, 5.0], "ends_s": [4.0, 9.0], "text": ("how are you?", "tired, so tired"),
        "speakers": ("interviewer", "participant"), "seconds": 600.0,
    }  # fmt: skip
    return Text(**(fields | change))


@pytest.mark.parametrize(
    ("make", "change", "says"),
    [
        (events, {"durations_s": [0.0, -1.0, 3.0]}, "less than nothing"),
        (events, {"times_s": [10.0, 9.0, 300.0]}, "in order of time"),
        (events, {"times_s": [10.0, 20.0, 601.0]}, "outside the time"),
        (events, {"times_s": [-1.0, 20.0, 30.0]}, "outside the time"),
        (events, {"times_s": [1.0, np.nan, 30.0]}, "not a number"),
        (events, {"codes": [0, 1, 3]}, "none of the 3 kinds"),
        (events, {"codes": [0, 1]}, "one length"),
        (events, {"seconds": 0.0}, "positive number of seconds"),
        (text, {"ends_s": [4.0, 1.0]}, "cannot end before"),
        (text, {"times_s": [0.0, 601.0], "ends_s": [4.0, 602.0]}, "outside the time"),
        (text, {"text": ("one",)}, "one length"),
        (video, {"frames": FRAMES[:0]}, "without a picture"),
        (video, {"frames": FRAMES[:, :0]}, "without a picture"),
        (video, {"frames": FRAMES / 255}, "uint8"),
        (video, {"frames": FRAMES[0]}, "uint8"),
        (video, {"frames": FRAMES[..., :1]}, "uint8"),
        (video, {"rate_hz": 0.0}, "positive number of Hz"),
        (video, {"offset_s": np.nan}, "number of seconds"),
    ],
)
def test_impossible_streams_are_refused(make, change, says):
    with pytest.raises(MienError, match=says):
        make(**change)


def test_a_cut_holds_what_begins_in_it_and_keeps_durations():
    part = events().cut(10, 310)
    assert part is not None
    assert part.times_s.tolist() == [0.0, 0.0, 290.5]
    assert part.durations_s.tolist() == [0.0, 60.0, 30.0]
    assert part.party is not None
    assert part.party.tolist() == [-1, 4, 7]
    assert part.seconds == 300
    assert events().cut(11, 300) is not None  # nothing happened, which was observed
    assert len(events().cut(11, 300).times_s) == 0
    assert events().cut(500, 601) is None
    said = text().cut(5, 10)
    assert said is not None
    assert (said.text, said.times_s.tolist(), said.speakers) == (("tired, so tired",), [0.0], ("participant",))


def recording(person="p1", **change) -> Recording:
    steps = Signal(values=np.arange(10.0)[:, None], rate_hz=1 / 60, channels=("steps",), unit="1/min")
    streams = {"calls": events(), "diary": text(), "steps": steps} | change
    return Recording(id=f"r-{person}", person=person, streams=streams, labels={"mood": "low"})


def test_they_come_back_from_disk_and_move_the_fingerprint(tmp_path):
    made = Cohort.build([recording()], card=CARD, consents={"p1": Consent()}, cache=tmp_path, key="k")
    back = made[0]
    calls, diary = back.streams["calls"], back.streams["diary"]
    assert isinstance(calls, Events)
    assert isinstance(diary, Text)
    for name in ("times_s", "durations_s", "codes", "party"):
        assert np.array_equal(getattr(calls, name), getattr(events(), name)), name
    assert (calls.kinds, calls.seconds) == (events().kinds, 600.0)
    assert (diary.text, diary.speakers, diary.ends_s.tolist()) == (text().text, text().speakers, [4.0, 9.0])
    assert made.card.streams["calls"].kind == "events"
    others = [
        recording(calls=events(party=[-1, 4, 8])), recording(calls=events(times_s=[10.0, 10.5, 300.5])),
        recording(diary=text(text=("how are you?", "tired, so tired!"))),
    ]  # fmt: skip
    prints = {Cohort.build([r], card=CARD).fingerprint for r in others} | {
        Cohort.build([recording()], card=CARD).fingerprint
    }
    assert len(prints) == 4
    assert Cohort.build([recording()], card=CARD).fingerprint == made.fingerprint


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"calls": events(kinds=("in", "out", "lost"))}, "has the kinds"),
        ({"diary": text(speakers=("doctor", "participant"))}, "'doctor' speaks"),
        ({"diary": events()}, "holds events"),
        ({"calls": Signal(values=[[1.0]], rate_hz=1, channels=("in",), unit="")}, "is a signal"),
    ],
)
def test_a_stream_must_be_what_the_card_declares(change, says):
    with pytest.raises(MienError, match=says):
        Cohort.build([recording(**change)], card=CARD)


def test_statistics_of_calls_and_words():
    found = dict(zip(features.names(CARD), features.vector(recording().streams, CARD), strict=True))
    assert found["calls.in.per_hour"] == 6
    assert found["calls.in.share"] == pytest.approx(0.1)
    assert (found["calls.out.parties"], found["calls.missed.parties"]) == (1, 0)
    assert found["diary.utterances"] == 2
    assert found["diary.different"] == pytest.approx(5 / 6)  # tired twice
    assert sum(v for n, v in found.items() if ".word_" in n) == pytest.approx(1)
    absent = features.vector({"calls": events()}, CARD)
    assert np.isnan(absent).sum() == len(features.names(CARD)) - 12


def test_windows_with_gaps_can_be_kept_and_their_gaps_counted_out():
    values = np.r_[np.full(5, 2.0), np.full(5, np.nan)][:, None]
    steps = Signal(values=values, rate_hz=1 / 60, channels=("steps",), unit="1/min", valid=np.arange(10) < 5)
    r = recording(steps=steps)
    w = Window(recording=r.id, person="p1", start_s=0, end_s=600)
    assert cut(r, w)[1] == "a gap in steps"
    assert set(cut(r, w, valid=0.6)[0]) == {"calls", "diary"}
    kept, why = cut(r, w, valid=0.5)
    assert why is None
    found = dict(zip(features.names(CARD), features.vector(kept, CARD), strict=True))
    assert found["steps.steps.mean"] == 2
    assert np.isnan(found["steps.steps.power_low"])


def test_they_can_be_drawn():
    assert "<svg" in pictures.examples([dict(recording().streams)], ["low"])


FILMED = replace(
    CARD, streams={**CARD.streams, "face": StreamSpec(channels=("r", "g", "b"), rate_hz=0.01, kind="video")}
)


def test_video_is_cut_and_comes_back_from_disk(tmp_path):
    part = video(offset_s=100.0).cut(300, 500)
    assert part is not None
    assert (np.array_equal(part.frames, FRAMES[2:4]), part.offset_s, part.seconds) == (True, 0.0, 200.0)
    assert video().cut(500, 700) is None
    assert video().cut(100, 101) is None  # no frame falls into so short a time
    made = Cohort.build([recording(face=video(offset_s=7.0))], card=FILMED, cache=tmp_path, key="v")
    for back in (made[0].streams["face"], next(iter(made)).streams["face"]):
        assert isinstance(back, Video)
        assert np.array_equal(back.frames, FRAMES)
        assert (back.rate_hz, back.offset_s) == (0.01, 7.0)
    assert isinstance(made[0].streams["calls"], Events)
    assert made.card.streams["face"].kind == "video"
    others = [FRAMES[::-1], FRAMES.reshape(6, 5, 4, 3)]
    prints = {Cohort.build([recording(face=video(frames=f))], card=FILMED).fingerprint for f in others}
    assert len({*prints, made.fingerprint}) == 3
    assert made.fingerprint == Cohort.build([recording(face=video(offset_s=7.0))], card=FILMED).fingerprint
    assert len(features.vector(made[0].streams, FILMED)) == len(features.names(FILMED))


def test_a_video_must_be_what_the_card_declares():
    with pytest.raises(MienError, match="is a video"):
        Cohort.build([recording(steps=video())], card=CARD)
    with pytest.raises(MienError, match="is a video"):
        Cohort.build([recording(face=video(rate_hz=25))], card=FILMED)
    with pytest.raises(MienError, match="declares video"):
        Cohort.build([recording(face=events())], card=FILMED)


def test_shards_written_before_there_was_video_are_still_read(tmp_path):
    import pyarrow.parquet as pq

    made = Cohort.build([recording()], card=CARD, cache=tmp_path, key="k")
    assert made.folder is not None
    (file,) = made.folder.glob("data-*.parquet")
    rows = pq.read_table(file).to_pylist()
    for stream in rows[0]["streams"]:
        del stream["frames"], stream["shape"]
    pq.write_table(pa.Table.from_pylist(rows), file)
    (cache_home() / "arrow" / f"{made.fingerprint[:32]}-2.arrow").unlink()
    assert isinstance(Cohort.read(made.folder)[0].streams["diary"], Text)


@pytest.mark.parametrize(("height", "width"), [(16, 24), (17, 30), (4, 5)])
def test_of_pictures_the_brightness_of_cells_is_counted(height, width):
    """Against a slow count of each cell's pixels."""
    frames = np.random.default_rng(1).integers(0, 256, (5, height, width, 3), dtype=np.uint8)
    card = replace(CARD, streams={"film": StreamSpec(channels=("r", "g", "b"), rate_hz=1.0, kind="video")})
    found = features.vector({"film": Video(frames=frames, rate_hz=1.0)}, card)
    assert len(found) == len(features.names(card)) == 128
    assert [len(x) for x in features.spans(card)] == [128, 128]
    for k, (row, column) in enumerate((r, c) for r in range(8) for c in range(8)):
        top, left = row * height // 8, column * width // 8
        bottom, right = max((row + 1) * height // 8, top + 1), max((column + 1) * width // 8, left + 1)
        each = [
            np.mean([int(v) for y in range(top, bottom) for x in range(left, right) for v in f[y, x]]) / 255
            for f in frames
        ]
        assert found[k] == pytest.approx(np.mean(each)), (row, column)
        assert found[64 + k] == pytest.approx(np.std(each)), (row, column)
    assert np.isnan(features.vector({}, card)).all()
