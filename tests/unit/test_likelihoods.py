"""What an attacker sees of an autoencoder: evidence and reconstruction against slow oracles; learnt by heart and not."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.distributions import Normal

from mien.adapters import likelihoods
from mien.adapters.windows import Windows
from mien.attacks import audit, judge
from mien.attacks.membership import evidence, reconstruction
from mien.attacks.signals import Signals
from mien.core.config import Plugin
from mien.core.errors import MienError
from mien.data import features

from .test_attacks import everything
from .test_autoencoder import people, shaken, some, subject, trained  # noqa: F401 - a fixture
from .test_representation import made_of
from .test_representation import people as people_with_calls  # noqa: F401 - a fixture


def test_the_evidence_is_the_integral_over_the_latent_line(some):  # noqa: F811
    made = subject(some, latent=1, heads={})
    shaken(made)
    ae, windows = made.made, made.windows
    found = likelihoods.likelihoods(ae, windows, draws=4000)
    z = torch.linspace(-12, 12, 4001)
    rows = [0, 20, 40]  # the last one has one stream
    batch = ae.batch(windows, rows)
    with torch.no_grad():
        known, count = ae.likelihood(ae.model, batch, z[None, :, None].expand(3, -1, -1))
    want = (torch.logsumexp(known + Normal(0.0, 1.0).log_prob(z), 1) + np.log(24 / 4000)) / count
    np.testing.assert_allclose(found["evidence"][rows], want.numpy(), atol=2e-3)
    assert found["n_tokens"][rows].tolist() == count.tolist()
    assert count[2] < count[0]


def test_reconstruction_is_the_mean_over_the_posteriors_draws(some):  # noqa: F811
    made = subject(some)
    shaken(made)
    ae, windows = made.made, made.windows
    found = likelihoods.likelihoods(ae, windows, seed=3, draws=5)
    noise = torch.randn((5, ae.width), generator=torch.Generator().manual_seed(3))
    batch = ae.batch(windows, [7])
    with torch.no_grad():
        mean, precision = ae.posterior(ae.embeddings(ae.model, batch), batch.present[:, None])
        each = []
        for k in range(5):
            one, count = ae.likelihood(ae.model, batch, mean + noise[k] / precision.sqrt())
            each.append(float(one[0, 0] / count[0]))
        loss = float(ae.losses(ae.model.eval(), batch)[0])
    assert found["reconstruction"][7] == pytest.approx(np.mean(each), rel=1e-5)
    assert found["loss"][7] == pytest.approx(loss, rel=1e-5)


def test_a_window_is_seen_alike_whatever_is_beside_it(some):  # noqa: F811
    made = subject(some)
    shaken(made)
    every = likelihoods.likelihoods(made.made, made.windows)
    part = likelihoods.likelihoods(made.made, made.windows.rows(np.array([40, 5])), size=1)
    for name, value in every.items():
        np.testing.assert_allclose(part[name], value[[40, 5]], rtol=1e-5)


@pytest.fixture
def crowd(home):
    return people(36, 2)


def sight(cohort, made, members):
    """As `mien attack` has it: members and those of equal number whom nothing was trained on."""
    windows = subject(cohort).windows
    table = features.tabulate(cohort, seconds=4.0, stride_s=4.0, task="activity")
    o = SimpleNamespace(
        made=made, windows=windows, table=table, train=np.isin(table.person, members), loss=np.zeros(len(table)),
        split=SimpleNamespace(fresh=()), config={"seconds": 4.0, "stride_s": 4.0, "task": "activity", "valid": 1.0},
        streams={"acc": "acc", "eda": "eda"},
    )  # fmt: skip
    return likelihoods.Sight.of(o, [f"p{i:02d}" for i in range(24)])


@pytest.mark.parametrize("learnt", ["by heart", "on others"])
def test_attacks_find_who_was_learnt_by_heart_and_nobody_else(crowd, tmp_path, learnt):
    """Members are twelve of 24 persons. One model is trained on them for far too long, one on twelve persons more."""
    members = [f"p{i:02d}" for i in np.random.default_rng(0).permutation(24)[:12]]
    persons = members if learnt == "by heart" else [f"p{i:02d}" for i in range(24, 36)]
    made = trained(
        crowd, tmp_path, 300, keep=lambda w: w.person in persons, latent=16, hidden=96, evidence=50.0, heads={}
    ).made
    seen = sight(crowd, made, members)
    signals = Signals(made_with="x", **seen.observe()).with_table(seen.table)
    found = judge.membership([Plugin(name=n) for n in audit.AUTOENCODED], signals, 0)
    area = {r.metric: r for r in found.results if r.unit == "person" and r.metric.endswith(".auc")}
    for name in ("loss.auc", "evidence.auc", "reconstruction.auc"):
        r = area[name]
        if learnt == "by heart":
            assert r.low is not None, r.note
            assert r.low > 0.6
        else:
            assert r.low <= 0.5 <= r.high
        assert next(b.value for b in r.baselines if b.name == "planted") > 0.8


def test_a_release_is_seen_by_the_streams_that_are_written(crowd):
    seen = sight(crowd, subject(crowd).made, ["p00"])
    table, tokens = seen.both(crowd)
    assert tokens is None
    assert table.X.shape == (
        len(features.tabulate(crowd, seconds=4.0, stride_s=4.0, task="activity")),
        seen.table.X.shape[1],
    )


def seen_of(made, windows, members, persons, cohort):
    """A LoRA representation as `mien attack` has it."""
    table = features.tabulate(cohort, seconds=4.0, stride_s=4.0, task="activity")
    o = SimpleNamespace(
        made=made, windows=windows, table=table, train=np.isin(table.person, members), split=SimpleNamespace(fresh=()),
        loss=np.arange(len(table), dtype=float),
    )  # fmt: skip
    return likelihoods.Sight.of(o, persons)


def test_other_representations_are_attacked_by_their_heads_loss_and_how_near_things_lie(people_with_calls):  # noqa: F811
    cohort = people_with_calls
    made, windows = made_of(cohort, bind="public")
    found = seen_of(made, windows, ["p00"], ["p00", "p01"], cohort).observe()
    assert set(found) == {"recording", "person", "label", "member", "loss", "n_tokens", "views", "cosine"}
    n = int(np.isin(windows.person, [0, 1]).sum())
    assert found["loss"].tolist() == list(range(n))
    assert found["views"].shape == (n, 1 + likelihoods.VIEWS, made.width)
    made, windows = made_of(cohort, bind="none")
    assert "cosine" not in seen_of(made, windows, ["p00"], ["p00", "p01"], cohort).observe()


def test_similarities_are_those_of_each_pair_of_streams(people_with_calls):  # noqa: F811
    made, windows = made_of(people_with_calls, bind="public")
    rows = [0, 5, int(np.flatnonzero(windows.person == 3)[0])]  # the last one has two streams of three
    part = windows.rows(np.array(rows))
    found = likelihoods.similarities(made, part, count=1)
    for k, w in enumerate((part, likelihoods.noisy(part, 1))):
        for i in range(len(rows)):
            batch = made.batch(w, [i])
            with torch.no_grad():
                z = {m: v[0].double() for m, v in made.embeddings(made.model, batch).items()}
            there = [z[m] for j, m in enumerate(w.modalities) if w.present[i, j]]
            want = np.mean([float(a @ b) for j, a in enumerate(there) for b in there[:j]])
            assert found["cosine"][i, k] == pytest.approx(want, abs=1e-5)
    assert found["cosine"][:, 0] != pytest.approx(found["cosine"][:, 1], abs=1e-5)
    np.testing.assert_allclose(found["views"][:, 0], likelihoods.vectors(made, part), atol=1e-6)


def test_noise_is_a_windows_own_and_leaves_words_and_gaps_alone():
    values = np.array([[0.0, 1.0], [0.0, 3.0], [5.0, 0.0]], np.float32)
    row = {"acc": {"values": values, "there": np.array([1, 1, 0.0])}, "text": {"ids": np.arange(4)}}
    other = {"acc": {"values": 100 * values, "there": np.ones(3)}}
    windows = Windows(
        modalities=("acc", "text"), arrays=[row, other], person=np.zeros(2, int), recording=np.zeros(2, int)
    )
    windows.session, windows.start_s = np.array(["", ""], object), np.zeros(2)
    one, two = likelihoods.noisy(windows, 1).arrays
    assert one["text"]["ids"].tolist() == [0, 1, 2, 3]
    assert one["acc"]["there"].tolist() == [1, 1, 0]
    moved = one["acc"]["values"] - values
    assert (moved[values == 0] == 0).all()
    assert (moved[values != 0] != 0).all()
    np.testing.assert_allclose(two["acc"]["values"] - 100 * values, 100 * moved, rtol=1e-4)
    alone = likelihoods.noisy(windows.rows(np.array([1])), 1).arrays[0]
    assert (alone["acc"]["values"] == two["acc"]["values"]).all()
    assert (likelihoods.noisy(windows, 2).arrays[0]["acc"]["values"] != one["acc"]["values"]).any()


def test_attacks_on_an_encoder_find_planted_members_and_nobody_else(crowd):
    """Nothing was trained here: whoever is called a member is nobody."""
    made, windows = made_of(crowd, bind="public")
    members = [f"p{i:02d}" for i in np.random.default_rng(0).permutation(24)[:12]]
    seen = seen_of(made, windows, members, [f"p{i:02d}" for i in range(24)], crowd)
    signals = Signals(made_with="x", **seen.observe()).with_table(seen.table)
    found = judge.membership([Plugin(name=n) for n in audit.REPRESENTED], signals, 0)
    area = {r.metric: r for r in found.results if r.unit == "person" and r.metric.endswith(".auc")}
    for name in ("cosine.auc", "augmented.auc", "encoder.auc"):
        assert area[name].low <= 0.5 <= area[name].high
        assert next(b.value for b in area[name].baselines if b.name == "planted") > 0.8


def test_profiles_leave_out_what_needs_tokens():
    asked = audit.of_representation(audit.Asked(), autoencoder=True)
    assert [s.name for s in asked.named("membership")] == list(audit.AUTOENCODED)
    other = audit.of_representation(audit.Asked(), autoencoder=False)
    assert [s.name for s in other.named("membership")] == list(audit.REPRESENTED)
    assert "ngram" not in [s.name for s in asked.named("release")]
    assert "nearest" in [s.name for s in asked.named("release")]
    own = audit.Asked.model_validate({"membership": [{"name": "min_k"}], "release": [{"name": "ngram"}]})
    assert audit.of_representation(own, autoencoder=True) == own


@pytest.mark.parametrize("module", [evidence, reconstruction])
def test_what_is_not_there_is_asked_for(module):
    s = everything()
    name = module.NEEDS[0]
    assert np.array_equal(module.score(s, module.Config()), getattr(s, name))
    lacking = Signals(**{k: getattr(s, k) for k in ("recording", "person", "member", "label", "n_tokens", "made_with")})
    with pytest.raises(MienError, match=name):
        module.score(lacking, module.Config())
