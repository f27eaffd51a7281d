"""`mien feedback` on a small synthetic cohort: what one call leaves for the next."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from mien.alignment import credit, preferences
from mien.alignment.preferences import Preference
from mien.alignment.store import Advice, Answer, Pair, Store
from mien.alignment.studio import calls, server, shown, source
from mien.core import runs
from mien.core.config import Plugin
from mien.core.errors import MienError
from mien.core.records import Cohort, CohortCard, Recording
from mien.core.runs import Run
from mien.data.datasets import simulated
from mien.generation import sample
from mien.generation.layout import Layout
from mien.recipes import feedback

from . import invented

STREAMS = ("bvp", "eda")


class Studies:
    """Calls of the verb on one cohort of eight simulated recordings, and what they left."""

    def __init__(self, home: Path):
        self.home = home
        card = CohortCard(
            name="toy", licence="none", consent="invented", tasks={"stress": ("calm", "stress")},
            streams={n: simulated.STREAMS[n] for n in STREAMS},
        )  # fmt: skip
        many = [
            replace(
                r, id=sample.name(i), person=sample.name(i), attributes={}, streams={n: r.streams[n] for n in STREAMS}
            )
            for i, r in enumerate(invented.recordings("wrist", 8).values())
        ]
        with Run.start("generate", "toy", {}, {"adapter": "a" * 40}) as run:
            Cohort.store(many, run.release / "cohort", card=card)

    def call(self, *said: str, **keys: Any) -> Path:
        """The folder of the run that it was."""
        recipe = {"study": "toy", "synthetic": "generate-toy", "raters": ["ann"], "pairs": 6} | keys
        (self.home / "feedback.yaml").write_text(yaml.safe_dump(recipe))
        assert feedback.main(["feedback.yaml", *said]) == 0
        return runs.find(f"feedback-{recipe['study']}", "feedback")


def page(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text().split('id="data">')[1].split("</script>")[0])


def answers(folder: Path) -> Store:
    return Store.open(folder / "private" / "feedback.sqlite")


def report(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "release" / "report.json").read_text())


@pytest.fixture
def toy(home) -> Studies:
    return Studies(home)


def test_whom_one_study_recognised_no_other_of_the_cohort_shows(toy):
    checks = {"repeats": 0, "controls": 0}
    with answers(toy.call("export=page.html", checks=checks)) as store:
        mine = {"cohort": store.cohort, "model": store.model}
        gone = store.pairs()[0].a
        said = Advice(pair=store.pairs()[0].id, recording=gone, nonce="nonce-0000", kind="recognise")
        store.advise("ann", said, **mine)
    other = toy.call("export=page.html", checks=checks, pairs=5, study="other")
    with answers(other) as store:
        kept = [p.id for p in store.pairs() if gone not in (p.a, p.b)]
        assert 0 < len(kept) < len(store.pairs())
    assert sorted(p["pair"] for p in page(toy.home / "page.html")["pairs"]) == sorted(kept)
    assert "FLAGGED" in str(report(other)["caveats"])


def test_what_is_said_of_one_recording_is_exported_and_counted(toy):
    folder = toy.call("export=page.html", study="rated")
    said = [
        ("ann", "p", "rating", {"value": 2}), ("ann", "p", "rating", {"value": 4}), ("bob", "p", "rating", {"value": 1}),
        ("ann", "p", "region", {"stream": "eda", "start": 1.0, "end": 2.5}), ("bob", "p", "instruction", {"text": "<b>slower</b>"}),
        ("ann", "undone", "rating", {"value": 5}), ("ann", "seen", "instruction", {"text": "x"}), ("bob", "seen", "recognise", {}),
        ("ann", "control", "rating", {"value": 1}), ("ann", "p", "correction", {"stream": "bvp", "mark": "beat", "moves": [[1, 1.9, 0.0]]}),
    ]  # fmt: skip
    with answers(folder) as store:
        mine = {"cohort": store.cohort, "model": store.model}
        store.seat("bob")
        first = store.pairs()[0]
        free = [p for p in store.pairs() if p.kind == "pair" and not {p.a, p.b} & {first.a}]
        pairs = {
            "p": first,
            "undone": first,
            "seen": free[0],
            "control": next(p for p in store.pairs() if p.kind == "control"),
        }
        pairs["undone"] = next(p for p in free if p.a not in (free[0].a, free[0].b))
        for i, (rater, pair, kind, body) in enumerate(said):
            advice = Advice(pair=pairs[pair].id, recording=pairs[pair].a, nonce=f"nonce-{i:04d}", kind=kind, body=body)
            store.advise(rater, advice, **mine)
        store.undo(
            "ann", store.answer("ann", Answer(pair=pairs["undone"].id, nonce="nonce-answer", choice="A"), **mine)
        )
    toy.call("export=advice.jsonl", study="rated")
    assert (toy.home / "advice.jsonl").stat().st_mode & 0o777 == 0o600
    (row,) = map(json.loads, (toy.home / "advice.jsonl").read_text().splitlines())
    assert (row["recording"], row["label"]) == (first.a, first.label)
    assert [(x["rater"], x["value"]) for x in row["ratings"]] == [("ann", 4), ("bob", 1)]
    assert [(x["rater"], x["stream"], x["start"], x["end"]) for x in row["regions"]] == [("ann", "eda", 1.0, 2.5)]
    assert [(x["rater"], x["text"]) for x in row["instructions"]] == [("bob", "<b>slower</b>")]
    assert [x["moves"] for x in row["corrections"]] == [[[1, 1.9, 0.0]]]
    told = report(folder)
    assert {r["metric"]: r["value"] for r in told["results"]}["mean rating, 1 to 5"] == 2.5
    assert "2 ratings, 1 region, 1 correction, 1 instruction" in told["summary"]


@pytest.mark.parametrize("choose", ["random", "d_optimal"])
def test_more_pairs_go_on_with_the_same_study(toy, choose, capsys):
    first = toy.call("export=page.html", study="more", pairs=4, choose=choose)
    with answers(first) as store:
        mine, few = {"cohort": store.cohort, "model": store.model}, store.pairs()
        store.answer("ann", Answer(pair=few[0].id, nonce="nonce-0000", choice="A"), **mine)
        said, token = store.standing(), store.seat("ann", anew=True)
        assert token
    capsys.readouterr()
    for _ in range(2):
        second = toy.call("export=page.html", study="more", pairs=9, choose=choose)
    told = capsys.readouterr().out
    assert told.count(f"going on from {first.name}, which has 4 pairs") == 1
    with answers(second) as store:
        every = store.pairs()
        assert (store.standing(), store.rater(token)) == (said, "ann")
    assert every[: len(few)] == few
    ordinary = [frozenset((p.a, p.b)) for p in every if p.kind == "pair"]
    assert len(ordinary) == len(set(ordinary)) == 9
    assert sum(p.kind == "repeat" for p in every) == sum(p.kind == "control" for p in every) == 2
    assert toy.call("export=page.html", study="more", pairs=3, choose=choose) not in (first, second)  # not fewer
    with answers(runs.find("feedback-more", "feedback")) as store:
        assert store.standing() == []


def test_an_empty_export_names_the_studies_that_have_answers(toy):
    """A key more or less is another study, and so an empty one."""
    with pytest.raises(MienError, match="nor has any other study"):
        toy.call("export=advice.jsonl", study="empty")
    full = toy.call(study="full", simulate={})
    with pytest.raises(MienError, match=rf"there are answers in {full.name} \(\d+ answers of simulated experts"):
        toy.call("export=advice.jsonl", study="full")
    assert not (toy.home / "advice.jsonl").exists()


def test_no_empty_file_of_answers_is_written(sampled, corrections, home):
    layout, documents, _ = sampled
    with pytest.raises(MienError, match="no answer to write; nor has any other"):
        calls.write_pairs(corrections[0], home / "pairs.jsonl", layout, documents)
    assert not (home / "pairs.jsonl").exists()


def test_what_is_exported_is_its_owners_alone(tmp_path):
    said = [Preference(pair="p", a="x", b="y", rater="ann", choice="A")]
    preferences.write(tmp_path / "pairs.jsonl", said)
    assert (tmp_path / "pairs.jsonl").stat().st_mode & 0o777 == 0o600


def test_an_export_without_a_place_is_refused_at_once(toy):
    with pytest.raises(MienError, match="export: there is no folder there; make it first"):
        toy.call("export=there/pairs.jsonl")


def test_a_study_that_goes_on_says_so(toy, capsys):
    for _ in range(2):
        toy.call("export=page.html", study="again")
    said = capsys.readouterr().out
    assert "goes on, every answer is kept" in said
    assert "--fresh" not in said


# --- corrections -----------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def sampled():
    """A layout of blocks, documents of it, and the recordings that they decode to."""
    card = CohortCard(name="s", licence="", consent="", tasks={"stress": ("calm", "stress")}, streams=simulated.STREAMS)
    own = (("eda", "eda"), ("activity", "acc"), ("beats", "bvp", "resp"))
    layout = Layout.of(
        card, seconds=60, task="stress", codec=Plugin(name="transform"), streams=["eda", "acc", "bvp", "resp"],
        codecs=[Plugin(name=name, streams=list(streams)) for name, *streams in own],
    )  # fmt: skip
    many = list(invented.recordings("wrist", 8).values())
    documents = layout.encode([r.streams for r in many], [r.labels["stress"] for r in many])
    made = sample.recordings([[d] for d in documents], layout, None)
    return layout, dict(zip(map(sample.name, range(8)), documents, strict=True)), {r.id: r for r in made}


@pytest.fixture
def corrections(sampled, tmp_path):
    """(study, correct): a study of these recordings, and what stores a correction in it and returns its number."""
    _, _, made = sampled
    mine = {"cohort": "c" * 64, "model": "m" * 64}
    store = Store.create(tmp_path / "f.sqlite", **mine)
    ids = sorted(made)
    store.add([Pair(id=f"p{i}", a=a, b=ids[i - 1]) for i, a in enumerate(ids)], **mine)
    store.seat("ann")

    def recording(name: str) -> Recording:
        if name not in made:
            raise MienError(f"no recording {name}")
        return made[name]

    study = server.Study(store=store, recording=recording, roles=invented.ROLES)

    def correct(one: str, stream: str, by_s: float, rise: float = 0.0, mark: int | None = None) -> str:
        found = shown.marks(made[one], invented.ROLES)[stream]
        i = len(found.times) // 2
        moves = [[i if mark is None else mark, float(found.times[i]) + by_s, rise]]
        body = {"stream": stream, "mark": found.kind, "moves": moves}
        said = Advice(
            pair=f"p{ids.index(one)}", recording=one, nonce=f"nonce-{one}-{stream}", kind="correction", body=body
        )
        n = store.advise("ann", said, **mine)
        return next(d.of for d in store.corrections() if d.n == n)

    yield study, correct
    store.close()


@pytest.mark.parametrize(("stream", "part", "by_s", "rise"), [("eda", 0, 0.5, 0.3), ("bvp", 2, 0.06, 0.0)])
def test_a_correction_teaches_what_was_corrected_and_nothing_else(sampled, corrections, stream, part, by_s, rise):
    layout, documents, made = sampled
    study, correct = corrections
    ids = {name: i for i, name in enumerate(layout.vocabulary.names)}
    numbers = {
        one: correct(one, stream, by_s, rise)
        for one in made
        if shown.marks(made[one], invented.ROLES)[stream].times.size
    }
    encode, n = source.tokens(layout, study, documents), 0
    for one, number in numbers.items():
        whole = [" ".join(encode(name)).split() for name in (f"corrected-{number}", f"uncorrected-{number}", one)]
        chosen, rejected, original = (credit.split(np.array([ids[t] for t in w]), layout) for w in whole)
        assert set(chosen) == set(rejected) == set(original)
        for i in original:
            if i != part:
                np.testing.assert_array_equal(chosen[i], original[i])
            np.testing.assert_array_equal(
                rejected[i], credit.split(written(layout, made[one]), layout)[i] if i == part else original[i]
            )
        n += not np.array_equal(chosen[part], rejected[part])
    assert n > len(numbers) / 2


def written(layout: Layout, r: Recording) -> np.ndarray:
    (document,) = layout.encode([r.streams], [r.labels["stress"]])
    assert document is not None
    return document


def test_a_correction_that_changes_no_token_teaches_nothing(sampled, corrections, tmp_path, capsys):
    layout, documents, made = sampled
    study, correct = corrections
    first, second, *_ = made
    correct(first, "bvp", 1e-6)
    name = correct(second, "bvp", 0.06)
    calls.write_pairs(study, tmp_path / "pairs.jsonl", layout, documents)
    (row,) = map(json.loads, (tmp_path / "pairs.jsonl").read_text().splitlines())
    assert (row["kind"], row["a"], row["b"]) == ("correction", f"corrected-{name}", f"uncorrected-{name}")
    assert row["chosen"] != row["rejected"]
    assert "1 answer left out" in capsys.readouterr().out


def test_a_correction_that_fits_no_more_stops_nothing(sampled, corrections, tmp_path, capsys):
    """Another version may detect other marks in the same recording."""
    layout, documents, made = sampled
    study, correct = corrections
    first, second, *_ = made
    stale, good = correct(first, "bvp", 0.0, mark=999), correct(second, "bvp", 0.06)
    card = CohortCard(name="s", licence="", consent="", tasks={"stress": ("calm", "stress")}, streams=layout.streams)
    source.write_corrected(study, card, tmp_path / "corrected")
    assert Cohort.read(tmp_path / "corrected").column("id") == [f"corrected-{good}"]
    assert "1 correction left out" in capsys.readouterr().out
    encode = source.tokens(layout, study, documents)
    with pytest.raises(MienError):
        encode(f"corrected-{stale}")
    assert encode(f"corrected-{good}")
    study.store.elsewhere = frozenset({second})
    source.write_corrected(study, card, tmp_path / "corrected")  # nor is anybody who is recognised written anew
    assert not (tmp_path / "corrected").exists()
