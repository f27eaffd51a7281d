"""The watch set's parser on an invented miniature of the same layout; on the real file where it has been fetched."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from mien.core import assets
from mien.core.errors import MienError
from mien.core.records import Cohort
from mien.data.datasets import watch

REAL = assets._target("watch")  # looked up before a test moves the cache


def miniature(path: Path, persons: int = 3, **changes) -> Path:
    """The layout of watch_dataset.npy with two exercises, both arms, invented numbers, in shuffled order."""
    rng = np.random.default_rng(0)
    table = [(s, y, a) for s in range(1, persons + 1) for y in (0, 3) for a in (0.0, 1.0)]
    table = [table[i] for i in rng.permutation(len(table))]
    data = {
        "X": [100 * s + 10 * y + a + rng.uniform(size=(100 + 10 * s, 6)) for s, y, a in table],
        "y": np.array([y for _, y, _ in table]),
        "subject": np.array([s for s, _, _ in table]),
        "side": np.array([a for _, _, a in table]),
        "y_labels": list(watch.EXERCISES),
        "X_labels": list(watch.CHANNELS),
        **changes,
    }
    np.save(path, np.array(data, dtype=object))
    return path


def test_the_layout_is_read(home):
    cohort = watch.load(watch.Config(path=str(miniature(home / "mini.npy"))))
    assert len(cohort) == 12
    assert cohort.persons == ["watch-01", "watch-02", "watch-03"]
    first, last = cohort[0], cohort[11]
    assert first.id == "watch-01-PEN-arm-0"
    assert last.id == "watch-03-IR-arm-1"
    assert (dict(last.labels), dict(last.attributes)) == ({"exercise": "IR"}, {"arm": "arm-1"})
    assert last.streams["acc"].values.shape == last.streams["gyro"].values.shape == (130, 3)
    for r in cohort:  # the numbers went with their person, exercise and arm
        s, y, a = (
            int(r.person[-2:]),
            watch.EXERCISES.index(r.labels["exercise"]),
            r.attributes["arm"] == "arm-1",
        )
        assert int(r.streams["gyro"].values.min()) == 100 * s + 10 * y + a
    kept, left_out = cohort.for_purpose("training")
    assert (len(kept), left_out) == (12, {})


def test_it_is_converted_once(home, monkeypatch):
    config = watch.Config(path=str(miniature(home / "mini.npy")))
    first = watch.load(config)
    monkeypatch.setattr(watch.pickles, "read_npy_dict", lambda *_: pytest.fail("read again"))
    assert watch.load(config).fingerprint == first.fingerprint
    monkeypatch.undo()
    miniature(home / "mini.npy", persons=4)  # another file is another cohort
    monkeypatch.setenv("MIEN_CACHE", str(home / "cache"))
    assert len(watch.load(config)) == 16


def test_without_the_asset(home):
    with pytest.raises(MienError, match="run `mien assets fetch watch`"):
        watch.load(watch.Config())
    with pytest.raises(MienError, match="no such file"):
        watch.load(watch.Config(path="absent.npy"))


def test_other_files_are_named(home):
    for changes, message in [
        ({"X_labels": ["a"] * 6}, "channels"),
        ({"side": np.full(12, 2.0)}, "side 2"),
        ({"y": np.zeros(3, dtype=int)}, "3 entries for 12"),
    ]:
        with pytest.raises(MienError, match=message):
            watch.load(watch.Config(path=str(miniature(home / "mini.npy", **changes))))
    np.save(home / "other.npy", np.array({"x": [1]}, dtype=object))
    with pytest.raises(MienError, match="not seglearn's watch set"):
        watch.load(watch.Config(path=str(home / "other.npy")))


@pytest.mark.skipif(not REAL.is_file(), reason="the asset `watch` is not here (mien assets fetch watch)")
def test_the_real_set(home, monkeypatch):
    monkeypatch.setattr(assets, "_target", lambda name: REAL)
    cohort: Cohort = watch.load(watch.Config())
    recordings = list(cohort)
    assert (len(recordings), len(cohort.persons)) == (140, 10)
    cells = Counter((r.person, r.labels["exercise"], r.attributes["arm"]) for r in recordings)
    assert len(cells) == 140
    assert sum(len(r.streams["acc"].values) for r in recordings) == 244_102
    assert "seglearn==1.2.5" in cohort.card.source
    for name, spec in watch.STREAMS.items():
        values = np.concatenate([r.streams[name].values for r in recordings])
        assert np.mean((values < spec.range[0]) | (values > spec.range[1])) < 1e-3
    norm = np.linalg.norm(np.concatenate([r.streams["acc"].values for r in recordings]), axis=1)
    assert 0.9 < np.median(norm) < 1.2  # gravity, in g


@pytest.mark.skipif(not REAL.exists(), reason="needs `mien assets fetch watch`")
def test_every_real_window_is_a_document_and_comes_back_in_units(home):
    """The grammar accepts each encoding, and what is decoded is close below the codec's bandwidth."""
    from mien.core.config import Plugin
    from mien.generation.layout import Layout
    from mien.generation.tokens import Documents

    cohort = watch.load(watch.Config(path=str(REAL)))
    layout = Layout.of(cohort.card, seconds=4.0, task="exercise", codec=Plugin(name="transform"))
    documents = Documents.encode(cohort, layout, stride_s=2.0, quiet=True)
    assert len(documents) == len(list(cohort.windows(4.0, 2.0))) > 2000
    rows = np.stack([documents[i] for i in range(len(documents))])
    assert (layout.grammar.states(rows)[:, -1] == layout.grammar.final).all()
    first = cohort[0]
    label, streams = layout.decode(documents[0])
    assert label == first.labels["exercise"]
    for name, signal in streams.items():
        real = first.streams[name].values[:200].mean(0)
        low, high = cohort.card.streams[name].range
        assert np.abs(signal.values.mean(0) - real).max() < 0.02 * (high - low)
