"""The adversarial autoencoder: its bound and its experts against slow oracles, missing streams, what it forgets and writes."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch.distributions import Normal, kl_divergence

from mien.adapters import autoencoder, training, world
from mien.adapters.autoencoder import Config
from mien.adapters.described import TREND, described
from mien.adapters.protections import Protections
from mien.adapters.represented import Autoencoding, frozen, vectors
from mien.attacks import represented as attacked
from mien.core.config import Plugin
from mien.core.errors import MienError
from mien.core.records import Cohort, CohortCard, Events, Recording, Signal, StreamSpec
from mien.data import features

from ..conftest import CARD, consents, recording

TINY: dict[str, Any] = {"latent": 3, "hidden": 8}


def people(persons: int = 6, each: int = 4, change=lambda r: r, card: CohortCard = CARD) -> Cohort:
    rng = np.random.default_rng(0)
    made = [change(recording(p, i, "walk" if i % 2 else "rest", rng)) for p in range(persons) for i in range(each)]
    return Cohort.build(made, card=card, consents=consents(persons))


def without(r: Recording, stream: str) -> Recording:
    return dataclasses.replace(r, streams={k: v for k, v in r.streams.items() if k != stream})


@pytest.fixture
def some() -> Cohort:
    """Person 3 has no skin conductance."""
    return people(change=lambda r: without(r, "eda") if r.person == "p03" else r)


def subject(
    cohort: Cohort, seed: int = 0, task: str = "activity", streams=(), valid: float = 1.0, keep=lambda w: True, **config
):
    recipe = SimpleNamespace(
        autoencoder=Config(**{**TINY, **config}),
        task=task,
        seconds=4.0,
        stride_s=4.0,
        streams=streams,
        valid=valid,
        seed=seed,
    )
    made = Autoencoding(recipe, cohort.card)
    made.encode(cohort, keep, lambda r: r, True)
    made.attach(cohort.card, None)
    return made


def trained(
    cohort: Cohort, folder, steps: int = 20, weight: float = 0.0, seed: int = 0, keep=lambda w: True, lr=5e-3, **config
):
    made = subject(cohort, seed=seed, keep=keep, **config)
    asked = (
        (Plugin.model_validate({"name": "adversary", "attributes": ["identity", "sex"], "weight": weight}),)
        if weight
        else ()
    )
    losses = Protections.of(asked).losses(made.made.model, made, cohort, seed, False)
    training.fit(
        made.made.model, losses, lambda rows: made.batch(rows, "cpu"), len(made),
        training.Train(max_steps=steps, batch=16, lr=lr, threads=1), seed=seed, folder=folder, accelerator=world.accelerator(1),
    )  # fmt: skip
    return made


def shaken(made) -> None:
    """Weights that are nobody's start: every term of the loss counts."""
    torch.manual_seed(5)
    for p in made.made.model.parameters():
        torch.nn.init.normal_(p, std=0.3)


# --- windows as numbers, and back ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("samples", [80, 81])
def test_band_powers_are_sums_over_a_slow_transform(samples):
    rng = np.random.default_rng(0)
    spec = StreamSpec(channels=("x",), unit="g", rate_hz=samples / 4, range=(-4.0, 4.0))
    card = dataclasses.replace(CARD, streams={"acc": spec})
    d = described(card, 4.0)["acc"]
    v = rng.normal(size=samples).cumsum() * 0.1
    u = v.astype(np.float32).astype(float)  # the range is 8 wide: its eighth is one
    t = np.arange(samples)
    basis = [np.cos(np.pi * (t + 0.5) * k / samples) * np.sqrt((1 if k == 0 else 2) / samples) for k in range(TREND)]
    trend = [float(b @ u) for b in basis]
    rest = u - sum(c * b for c, b in zip(trend, basis, strict=True))
    power = []
    for k in range(1, samples // 2 + 1):
        one = 2 * abs(sum(rest[j] * np.exp(-2j * np.pi * j * k / samples) for j in range(samples))) ** 2 / samples**2
        power.append(one / 2 if 2 * k == samples else one)
    assert sum(power) == pytest.approx(rest.var(), rel=1e-6)
    bands = [sum(power[a - 1 : b - 1]) for a, b in zip(d.edges, d.edges[1:], strict=False)]
    assert d.edges[-1] == samples // 2 + 1
    got = d.numbers(Signal(values=v[:, None], rate_hz=samples / 4, channels=("x",), unit="g"))
    slow = [*np.array(trend) / np.sqrt(samples), *np.log10(np.array(bands) + 1e-8)]
    assert np.allclose(got[: d.back], slow, atol=1e-4)
    assert len(got) == d.width == d.back + len(features.names(card))


def test_numbers_make_a_signal_of_that_trend_and_those_powers(some):
    d = described(CARD, 12.0)["acc"]
    s = some[1].streams["acc"]  # somebody walks
    numbers = d.numbers(s)
    rng = np.random.default_rng(0)
    back = [d.signal(numbers, rng) for _ in range(30)]
    assert (back[0].rate_hz, back[0].channels, back[0].unit) == (20.0, ("x", "y", "z"), "g")
    assert back[0].values.shape == s.values.shape
    again = np.stack([d.numbers(b) for b in back])[:, : d.back].reshape(30, 3, -1)
    wanted = numbers[: d.back].reshape(3, -1)
    assert np.allclose(again[..., :TREND], wanted[:, :TREND], atol=1e-3)
    # random phases scatter a band's power; over thirty draws its mean is the one asked for
    mean = np.log10((10 ** again[..., TREND:]).mean(0))
    loud = wanted[:, TREND:] > -3
    assert loud.any()
    assert np.abs(mean - wanted[:, TREND:])[loud].max() < 0.3


def test_what_is_written_stays_inside_the_declared_range():
    d = described(CARD, 4.0)["eda"]
    wild = np.full(d.width, 9.0)
    values = d.signal(wild, np.random.default_rng(0)).values
    assert np.isfinite(values).all()
    assert values.min() >= 0
    assert values.max() <= 40


def test_a_gap_is_crossed_for_the_numbers_and_a_stream_of_gaps_is_absent():
    d = described(CARD, 4.0)["eda"]
    v = np.linspace(1, 4, 16)[:, None]
    valid = np.ones(16, bool)
    valid[5:8] = False
    holed = np.where(valid[:, None], v, np.nan)
    there = d.numbers(Signal(values=v, rate_hz=4.0, channels=("eda",), unit="uS"))
    found = d.numbers(Signal(values=holed, rate_hz=4.0, channels=("eda",), unit="uS", valid=valid))
    assert np.allclose(found[: d.back], there[: d.back], atol=1e-4)  # a straight line has straight gaps
    gone = Signal(values=holed * np.nan, rate_hz=4.0, channels=("eda",), unit="uS", valid=np.zeros(16, bool))
    with pytest.raises(MienError, match="no sample"):
        d.numbers(gone)


# --- experts and bound --------------------------------------------------------------------------------------------------


def test_the_product_of_experts_is_the_product_of_their_densities():
    rng = np.random.default_rng(0)
    mean, precision = torch.tensor(rng.normal(size=(4, 3, 1))), torch.tensor(rng.uniform(0.3, 5, size=(4, 3, 1)))
    present = torch.tensor([[1, 1, 1], [1, 0, 1], [0, 1, 0], [0, 0, 0]], dtype=torch.float64)[..., None]
    m, p = autoencoder.product(mean, precision, present)
    z = np.linspace(-12, 12, 200_001)
    for b in range(4):
        log = -0.5 * z**2
        for e in range(3):
            if present[b, e, 0]:
                log = log - 0.5 * float(precision[b, e, 0]) * (z - float(mean[b, e, 0])) ** 2
        w = np.exp(log - log.max())
        w /= w.sum()
        centre = (w * z).sum()
        assert float(m[b, 0]) == pytest.approx(centre, abs=1e-6)
        assert 1 / float(p[b, 0]) == pytest.approx((w * (z - centre) ** 2).sum(), rel=1e-5)
    assert (float(m[3, 0]), float(p[3, 0])) == (0, 1)  # nothing seen: the prior


@torch.no_grad()
def oracle(made, windows, i: int, noise: np.ndarray) -> float:
    """One window's loss, subset by subset and number by number."""
    model, config, row = made.model, made.config, windows.arrays[i]
    x, experts = {}, {}
    for k, m in enumerate(made.modalities):
        if m in row:
            raw = row[m]["x"].astype(float)
            centre, unit = model.get_buffer(f"scale_centre_{k}"), model.get_buffer(f"scale_unit_{k}")
            scaled = ((torch.tensor(raw) - centre) / unit).clamp(-6, 6)
            x[m] = torch.where(torch.isnan(scaled), torch.tensor(float("nan"), dtype=torch.float64), scaled)
            out = model.encoders[k](torch.nan_to_num(x[m], nan=0.0).float())
            experts[m] = out[: config.latent], (4 * torch.tanh(out[config.latent :] / 4)).exp()
    known = [v for v in x.values() for v in v[~torch.isnan(v)]]
    losses = []
    for s, subset in enumerate(made.subsets):
        seen = [m for m, on in zip(made.modalities, subset, strict=True) if on and m in row]
        if not seen:
            continue
        precision = 1 + sum(experts[m][1] for m in seen)
        mean = sum(experts[m][1] * experts[m][0] for m in seen) / precision
        z = mean + torch.tensor(noise[s]) / precision.sqrt()
        code = windows.labels["activity"][i]
        centre = torch.zeros(config.latent) if np.isnan(code) else model.prior[int(code)]
        kl = kl_divergence(Normal(mean, precision**-0.5), Normal(centre, 1.0)).sum()
        likelihood = 0.0
        for k, m in enumerate(made.modalities):
            if m in row:
                at, sd = model.decoders[k](z), getattr(model, f"log_sd_{k}").clamp(-3, 1).exp()
                for j in range(len(at)):
                    if not torch.isnan(x[m][j]):
                        likelihood += float(Normal(at[j], sd[j]).log_prob(x[m][j].float()))
        loss = config.evidence * (config.beta * float(kl) - likelihood) / len(known)
        if not np.isnan(code):
            loss -= float(torch.log_softmax(made.heads["activity"](z), 0)[int(code)])
        losses.append(loss)
    return float(np.mean(losses))


@pytest.mark.parametrize("config", [{}, {"beta": 3.0, "evidence": 1.0}])
def test_a_windows_loss_is_that_of_the_slow_bound(some, config):
    made = subject(some, **config)
    shaken(made)
    rows = [0, 7, 40]  # the last one of person 3, who has one stream
    made.windows.labels["activity"][7] = np.nan
    made.windows.arrays[0]["acc"]["x"][-1] = np.nan
    assert len(made.windows.arrays[40]) == 1
    batch = made.batch(np.array(rows), "cpu")
    model = made.made.model.train()
    torch.manual_seed(3)
    losses, states = made.losses_and_states(model, batch)
    torch.manual_seed(3)
    noise = torch.randn(3, len(made.made.subsets), 3).numpy()
    for k, i in enumerate(rows):
        assert float(losses[k].detach()) == pytest.approx(oracle(made.made, made.windows, i, noise[k]), rel=1e-4)
    assert states.shape == (3, 3)
    model.eval()
    for k, i in enumerate(rows):
        still = oracle(made.made, made.windows, i, noise[k] * 0)
        assert float(made.losses(model, batch)[k].detach()) == pytest.approx(still, rel=1e-4)


def test_the_bound_is_below_the_evidence(some):
    """With one latent number the evidence is an integral over a line."""
    made = subject(some, latent=1, heads={})
    shaken(made)
    ae, batch = made.made, made.batch(np.array([0, 20]), "cpu")
    with torch.no_grad():
        z = torch.linspace(-12, 12, 4001)[None, :, None].expand(2, -1, -1)
        likelihood, count = ae.likelihood(ae.model, batch, z)
        evidence = torch.logsumexp(likelihood + Normal(0.0, 1.0).log_prob(z[..., 0]), 1) + np.log(24 / 4000)
        ae.model.train()
        torch.manual_seed(0)
        loss = torch.stack([ae.losses(ae.model, batch) for _ in range(300)]).mean(0)
    assert (-loss * count / ae.config.evidence <= evidence + 0.5).all()


def test_a_windows_loss_and_vector_depend_on_no_other_window(some):
    made = subject(some)
    shaken(made)
    model = made.made.model.eval()
    alone = made.losses(model, made.batch(np.array([5]), "cpu"))
    beside = made.losses(model, made.batch(np.array([5, 40, 9, 22]), "cpu"))
    assert torch.allclose(beside[:1], alone, rtol=1e-5)
    Z = made.made.represent(made.windows)
    assert np.allclose(Z[5], made.made.represent(made.windows.rows(np.array([5])))[0], atol=1e-6)


# --- missing streams ----------------------------------------------------------------------------------------------------


def test_a_missing_stream_is_a_missing_factor(some):
    made = subject(some)
    shaken(made)
    w = made.windows
    Z = made.made.represent(w)
    assert Z.shape == (len(w), made.made.width) == (72, 3)
    who = np.array(w.persons)[w.person]
    mine = np.flatnonzero(who == "p03")
    blank = made.batch(mine, "cpu")
    blank.inputs["eda"]["x"][:] = 77.0  # what stands in for a stream that is not there is nobody's
    with torch.no_grad():
        found = made.made.losses_and_states(made.made.model.eval(), blank)
        plain = made.made.losses_and_states(made.made.model, made.batch(mine, "cpu"))
    assert all(torch.equal(a, b) for a, b in zip(found, plain, strict=True))
    other = w.rows(np.flatnonzero(who == "p02"))
    assert not np.allclose(made.made.represent(other), vectors(made.made, other.of(["acc"])))


def test_events_are_read_and_not_written(home, tmp_path):
    calls = StreamSpec(channels=("in", "out"), kind="events")
    card = dataclasses.replace(CARD, streams={**CARD.streams, "calls": calls})

    def called(r: Recording) -> Recording:
        log = Events(
            times_s=np.array([1.0, 6.0]), durations_s=np.array([2.0, 3.0]), codes=np.array([0, 1]), kinds=("in", "out"),
            seconds=12.0,
        )  # fmt: skip
        return dataclasses.replace(r, streams={**r.streams, "calls": log})

    made = trained(people(change=called, card=card), tmp_path)
    assert "calls" in made.made.modalities
    assert set(made.made.generate(1, "rest").card.streams) == {"acc", "eda"}


# --- learning, forgetting, writing --------------------------------------------------------------------------------------


def test_the_seed_decides(some, tmp_path):
    one, same, other = (
        trained(some, tmp_path / str(i), seed=seed).made.represent(subject(some).windows)
        for i, seed in enumerate((0, 0, 1))
    )
    assert np.array_equal(one, same)
    assert not np.allclose(one, other)


def test_the_adversary_makes_people_harder_to_recognise_and_costs_the_task_little(home, tmp_path):
    """How somebody holds the arm and sweats tells who it is, how much the arm shakes what is done."""

    def planted(r: Recording) -> Recording:
        of = np.random.default_rng(int(r.person[1:]))
        acc, eda = r.streams["acc"], r.streams["eda"]
        held = (acc.values - acc.values.mean(0) + of.normal(size=3)).astype(np.float32)
        level = np.full_like(eda.values, 5 + of.uniform(0, 10)) + 0.1 * np.random.default_rng(0).normal(
            size=eda.values.shape
        )
        streams = {
            "acc": dataclasses.replace(acc, values=held),
            "eda": dataclasses.replace(eda, values=level.astype(np.float32)),
        }
        return dataclasses.replace(r, streams=streams)

    cohort = people(24, 4, planted)
    train = [f"p{k:02d}" for k in range(12)]
    everyone = subject(cohort).windows
    who = np.array(everyone.persons, object)[everyone.person]
    part = np.array(everyone.recordings, object)[everyone.recording]
    member, y = np.isin(who, train), everyone.labels["activity"]
    found = {}
    for weight in (0.0, 2.0):
        made = trained(
            cohort, tmp_path / str(weight), 200, weight, keep=lambda w: w.person in train, latent=8, hidden=32
        )
        Z = made.made.represent(everyone)
        leak = {r.metric: r.value for r in attacked.recognised({"z": Z}, who, part, member, trees=5)}
        each = attacked.recognised_each(Z, who, part, member, trees=5)["linear"]
        assert sorted(each) == sorted(set(who) - set(train))
        assert np.isclose(np.mean(list(each.values())), leak["identity.z.recognised (linear)"])
        task = LogisticRegression().fit(Z[member], y[member]).score(Z[~member], y[~member])
        found[weight] = (leak["identity.z.recognised (linear)"], task)
    assert found[0.0][0] > 0.4  # of twelve
    assert found[2.0][0] < found[0.0][0] - 0.15
    assert found[2.0][1] > max(0.9, found[0.0][1] - 0.05)


def test_what_is_generated_is_of_its_class_in_physical_units(home, tmp_path):
    made = trained(people(8, 6), tmp_path, 200, latent=4, hidden=32).made
    walk, rest = made.generate(12, "walk", seed=1), made.generate(12, "rest", seed=1)
    assert len(walk) == 12
    assert walk.card.synthetic
    assert "none" in walk.card.guarantee
    r = walk[0]
    assert r.labels == {"activity": "walk"}
    assert not r.attributes
    assert r.streams["acc"].values.shape == (80, 3)
    assert r.streams["eda"].values.shape == (16, 1)
    assert 0 <= r.streams["eda"].values.min() <= r.streams["eda"].values.max() <= 40
    shake = [np.median([x.streams["acc"].values.std(0).mean() for x in c]) for c in (walk, rest)]
    assert shake[0] > 2 * shake[1]
    again, other = made.generate(12, "walk", seed=1), made.generate(12, "walk", seed=2)
    assert np.array_equal(r.streams["acc"].values, again[0].streams["acc"].values)
    assert not np.allclose(r.streams["acc"].values, other[0].streams["acc"].values)
    assert made.generate(2)[0].labels == {}
    table = features.tabulate(walk, seconds=4.0, stride_s=4.0, task="activity")
    assert np.isfinite(table.X).all()


# --- kept and opened again ----------------------------------------------------------------------------------------------


def test_what_is_restored_is_what_was_saved_to_the_bit(some, tmp_path):
    made = trained(some, tmp_path / "steps", weight=1.0)
    made.save(made.made.model, tmp_path / "kept", "none", ())
    back, raw = autoencoder.restore(tmp_path / "kept")
    assert (raw["seconds"], raw["streams"]) == (4.0, {"acc": "acc", "eda": "eda"})
    assert np.array_equal(back.represent(made.windows), made.made.represent(made.windows))
    one, two = back.generate(3, "walk"), made.made.generate(3, "walk")
    assert all(np.array_equal(a.streams["acc"].values, b.streams["acc"].values) for a, b in zip(one, two, strict=True))
    assert not any("adversar" in f.read_text(errors="replace") for f in (tmp_path / "kept").glob("*.safetensors"))
    assert "p03" not in "".join(f.read_text(errors="replace") for f in (tmp_path / "kept").iterdir())
    assert "Guarantee: none" in (tmp_path / "kept" / "README.md").read_text()
    assert not np.allclose(frozen(back, made.windows), back.represent(made.windows))


def empty(folder):
    (folder / autoencoder.WEIGHTS).unlink()


def misshapen(folder):
    from safetensors.torch import load_file, save_file

    state = load_file(folder / autoencoder.WEIGHTS)
    save_file({**state, "prior": torch.zeros(5, 3)}, folder / autoencoder.WEIGHTS)


def unknown(folder):
    file = folder / autoencoder.SHAPE
    file.write_text(file.read_text().replace('"latent"', '"latant"'))


def torn(folder):
    file = folder / autoencoder.WEIGHTS
    file.write_bytes(file.read_bytes()[:100])


@pytest.mark.parametrize(
    ("broken", "says"),
    [(empty, "No such file"), (misshapen, "prior"), (unknown, "unknown key .latant"), (torn, "deserializing")],
)
def test_folders_that_hold_no_autoencoder(some, tmp_path, broken, says):
    made = subject(some)
    made.save(made.made.model, tmp_path, "none", ())
    broken(tmp_path)
    with pytest.raises(MienError, match=f"no readable autoencoder.*({says})"):
        autoencoder.restore(tmp_path)


# --- bad input ----------------------------------------------------------------------------------------------------------


def muted(r: Recording) -> Recording:
    """Skin conductance that is a gap from end to end."""
    s = r.streams["eda"]
    gone = dataclasses.replace(s, values=s.values * np.nan, valid=np.zeros(len(s.values), bool))
    return dataclasses.replace(r, streams={**r.streams, "eda": gone})


@pytest.mark.parametrize(
    ("change", "options", "says"),
    [
        (muted, {"valid": 0.5}, "stream 'eda' is in no window"),
        (lambda r: without(r, "eda"), {}, "stream 'eda' is in no window"),
        (lambda r: dataclasses.replace(r, labels={"activity": "rest"}), {}, "no window of activity = walk"),
        (lambda r: dataclasses.replace(r, labels={}), {}, "no window of 4 s"),
        (lambda r: r, {"keep": lambda w: False}, "no window of 4 s"),
        (lambda r: r, {"task": "mood"}, "declares 0 classes"),
        (lambda r: r, {"streams": ("ecg",)}, "no stream 'ecg'"),
        (lambda r: r, {"latent": 0}, "greater than or equal to 1"),
    ],
)
def test_cohorts_and_recipes_that_cannot_be(home, change, options, says):
    cohort = people(change=change)
    with pytest.raises((MienError, ValueError), match=says):
        subject(cohort, **options)


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        (StreamSpec(channels=("r", "g", "b"), rate_hz=1.0, kind="video"), "is video"),
        (StreamSpec(channels=("x",), unit="g", rate_hz=20.0), "declares no range"),
        (StreamSpec(channels=("x",), unit="g", rate_hz=2.0, range=(0.0, 1.0)), "has 8 samples in 4 s"),
    ],
)
def test_streams_that_have_no_numbers(spec, says):
    with pytest.raises(MienError, match=says):
        described(dataclasses.replace(CARD, streams={"odd": spec}), 4.0)


def test_labels_and_numbers_nobody_can_generate(some):
    made = subject(some).made
    for n, label, says in ((0, "walk", "n is 0"), (2, "run", "'run' is not a class of 'activity'")):
        with pytest.raises(MienError, match=says):
            made.generate(n, label)
    with pytest.raises(MienError, match="knows \\(none\\)"):
        subject(some, heads={}).made.generate(1, "walk")


def test_a_label_outside_its_classes_is_refused(some):
    card = dataclasses.replace(CARD, tasks={"activity": ("rest", "stroll")})
    recipe = SimpleNamespace(
        autoencoder=Config(**TINY), task="activity", seconds=4.0, stride_s=4.0, streams=(), valid=1.0, seed=0
    )
    with pytest.raises(MienError, match="not among its declared classes"):
        Autoencoding(recipe, card).encode(some, lambda w: True, lambda r: r, True)


def test_no_privacy_is_claimed(some):
    with pytest.raises(MienError, match="takes no `privacy:` section"):
        subject(some).attach(some.card, object())


def test_persons_with_one_recording_are_attacked_by_nobody_and_said_so(home):
    cohort = people(6, 1, lambda r: r)
    made = subject(cohort, heads={})
    w = made.windows
    who = np.array(w.persons, object)[w.person]
    found = attacked.recognised({"z": made.made.represent(w)}, who, who, np.isin(who, ["p00", "p01"]))
    assert found[0].value is None
    assert "0 held-out person(s) with two recordings" in found[0].note
