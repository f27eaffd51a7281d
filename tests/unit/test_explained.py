"""Explanations of a representation run: of persons nobody trained on, enrolled by other recordings, kept from the release."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from mien.adapters.represented import vectors
from mien.attacks.represented import each_recognised
from mien.core.errors import MienError
from mien.core.records import Cohort, Consent
from mien.data import features
from mien.evaluation import explain, explained
from mien.evaluation.explained import Explain

from ..conftest import recording
from .test_autoencoder import people, subject, trained, without
from .test_representation import WITH_CALLS, called, made_of

QUICK = Explain(folds=2, windows=2, steps=32, random=2, coarser=(), noisier=(2.0,))


@pytest.fixture
def run(tmp_path):
    """Two persons trained, eight did not; p03 has no skin conductance."""
    rng = np.random.default_rng(0)
    every = [called(recording(p, i, "walk" if i % 2 else "rest", rng), rng) for p in range(10) for i in range(4)]
    every = [
        replace(r, streams={k: v for k, v in r.streams.items() if k != "eda"}) if r.person == "p03" else r
        for r in every
    ]
    consents = {r.person: Consent() for r in every}
    people = Cohort.build(every, card=WITH_CALLS, consents=consents, cache=tmp_path / "cohort", key="called")
    made, windows = made_of(people, bind="none")
    made.model.eval()
    table = features.tabulate(people, seconds=4.0, stride_s=4.0, task="activity")
    assert table.recording.tolist() == [windows.recordings[i] for i in windows.recording]
    Z = vectors(made, windows)
    return SimpleNamespace(
        made=made, windows=windows, table=table, Z=Z, parts={m: Z[:, s] for m, s in made.slices.items()},
        y=windows.labels["activity"].astype(int),
        train=np.isin(table.person, ["p00", "p01"]), task="activity", classes=people.card.tasks["activity"],
        slices=made.slices, config={"seconds": 4.0},
        cohort=people, streams={m: m for m in made.modalities},
    )  # fmt: skip


def test_both_sides_are_explained_for_persons_nobody_trained_on(run, tmp_path):
    found = explained.of(run, each_recognised, QUICK)
    assert list(found.persons) == [f"p{i:02d}" for i in range(2, 10)]
    for side in found.shapley["activity"]:
        assert set(side.phi) == set(run.made.modalities)
        np.testing.assert_allclose(sum(side.phi.values()), side.full - side.empty, atol=1e-9)
    (e,) = found.explained
    assert set(e.person) == set(found.persons)
    assert e.channels["acc"] == run.cohort.card.streams["acc"].channels
    assert [len(e.recording), e.use["acc"].shape[0]] == [16, 16]  # two windows of each
    missing = e.person == "p03"  # who has no skin conductance
    assert np.abs(e.use["eda"][missing]).max() == 0
    assert np.abs(e.use["eda"][~missing]).max() > 0
    assert {c.metric.split()[0] for c in found.checks} == {"use", "leakage"}
    assert "drop eda" in found.advice["activity"].lost
    private, release = tmp_path / "private", tmp_path / "release"
    private.mkdir()
    release.mkdir()
    explain.write(found, private, release)
    own = json.loads((private / "explanations.json").read_text())
    assert set(own["shapley"]["activity"]["leakage"]["acc"]) == set(found.persons)
    shown = json.loads((release / "explanations.json").read_text())
    assert shown["withheld"]  # of eight persons nothing is told
    assert not shown["shapley"]
    assert found.released() == []
    assert found.released(least=8)


def test_a_stream_that_is_noise_to_everybody_is_worth_nothing(run):
    """The label is in one stream and the person in another: each side names its own."""
    rng = np.random.default_rng(0)
    who = np.unique(run.table.person, return_inverse=True)[1]
    Z = rng.normal(size=run.Z.shape)
    acc, eda = run.slices["acc"], run.slices["eda"]
    Z[:, acc] += 8 * np.eye(8)[run.y]
    Z[:, eda] += 8 * np.eye(10)[who][:, :8]
    run.Z = Z.astype(np.float32)
    found = explained.of(run, each_recognised, QUICK.model_copy(update={"folds": 4}))
    use, leak = found.shapley["activity"]
    assert use.phi["acc"].mean() > 0.3
    assert abs(use.phi["calls"].mean()) < 0.15
    assert leak.phi["eda"].mean() > 2 * max(leak.phi["acc"].mean(), leak.phi["calls"].mean())


@pytest.fixture
def autoencoded(tmp_path, home):
    """An autoencoder of two persons' recordings, and eight others; p03 has no skin conductance, and a broken sensor once."""
    cohort = people(10, 4, lambda r: without(r, "eda") if r.person == "p03" else r)
    made = trained(cohort, tmp_path, 150, keep=lambda w: w.person in ("p00", "p01"), latent=4, hidden=16).made
    windows = subject(cohort).windows
    windows.arrays[-1]["acc"]["x"][5] = np.nan
    table = features.tabulate(cohort, seconds=4.0, stride_s=4.0, task="activity")
    parts = {m: vectors(made, windows.of([m])) for m in made.modalities}
    return SimpleNamespace(
        made=made, windows=windows, table=table, Z=vectors(made, windows), parts=parts, y=windows.labels["activity"].astype(int),
        train=np.isin(table.person, ["p00", "p01"]), task="activity", classes=("rest", "walk"), slices=made.slices,
        config={"seconds": 4.0}, cohort=cohort, streams={m: m for m in made.modalities},
    )  # fmt: skip


def test_an_autoencoders_numbers_are_explained(autoencoded, tmp_path):
    o = autoencoded
    found = explained.of(o, each_recognised, QUICK.model_copy(update={"windows": 6}))
    (e,) = found.explained
    made = o.made.described["acc"]
    assert e.channels["acc"] == made.names
    assert e.use["acc"].shape == (48, 1, made.width)
    assert len(set(made.names)) == made.width
    assert {c.metric.split()[0] for c in found.checks} == {"use", "leakage"}
    missing = e.person == "p03"
    assert np.abs(e.use["eda"][missing]).max() == 0
    assert np.abs(e.leakage["eda"][~missing]).max() > 0
    own = set(o.table.recording[o.table.person == "p03"])
    assert own.isdisjoint(set(e.recording[~missing]))
    for folder in ("private", "release"):
        (tmp_path / folder).mkdir()
    explain.write(found, tmp_path / "private", tmp_path / "release", least=8)
    shown = json.loads((tmp_path / "release" / "explanations.json").read_text())
    assert "acc.x trend 0" in shown["shares"]["activity"]["use"]
    assert (tmp_path / "private" / "moments_0_acc.svg").exists()


def test_an_autoencoders_map_adds_up(autoencoded):
    """Number by number the map sums to what the head's answer moves from the training persons' mean."""
    o = autoencoded
    (e,), _ = explained.moments(o, np.flatnonzero(~o.train), QUICK)
    total = sum(a.sum((1, 2)) for a in e.use.values())
    rows = np.array([i for i in range(len(o.table)) if o.table.recording[i] in set(e.recording)])
    batch = o.made.scaled(o.made.batch(o.windows, rows))
    head = o.made.heads["activity"]
    with torch.no_grad():
        score = head(o.made.fused(o.made.embeddings(o.made.model, batch), batch.present[:, None])[:, 0]).numpy()
        nothing = replace(batch, inputs={m: {"values": v["values"] * 0} for m, v in batch.inputs.items()})
        base = head(o.made.fused(o.made.embeddings(o.made.model, nothing), batch.present[:, None])[:, 0]).numpy()
    y = o.y[rows]
    moved = (score - base)[np.arange(len(y)), y]
    possible = {r: moved[o.table.recording[rows] == r] for r in set(e.recording)}
    for r, t in zip(e.recording, total, strict=True):
        assert np.abs(possible[r] - t).min() < 0.05 * np.abs(moved).mean() + 1e-4


def test_a_missing_number_is_no_cause(autoencoded):
    o = autoencoded
    last = len(o.table) - 1
    scaled = o.made.scaled(o.made.batch(o.windows, [last])).inputs["acc"]["values"]
    assert not torch.isnan(scaled).any()
    assert float(scaled[0, 0, 5]) == 0
    plain = o.made.batch(o.windows, [last])
    with torch.no_grad():
        one, other = (o.made.embeddings(o.made.model, b)["acc"] for b in (plain, o.made.scaled(plain)))
    assert torch.equal(one, other)


@pytest.mark.parametrize("left", [0, 1, 7])
def test_too_few_persons_say_so(run, left):
    run.train = ~np.isin(run.table.person, [f"p{i:02d}" for i in range(2, 10)][:left])
    with pytest.raises(MienError, match=f"{left} held-out person"):
        explained.of(run, each_recognised, QUICK)


def test_a_task_without_a_head_has_no_moments(run):
    run.made.kinds = {}
    assert explained.moments(run, np.flatnonzero(~run.train), QUICK) == ([], [])
