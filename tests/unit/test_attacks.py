# pyright: reportArgumentType=false, reportOptionalOperand=false
# pyright: reportOptionalMemberAccess=false, reportCallIssue=false
import importlib
import itertools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mien.attacks.identity import linkage
from mien.attacks.membership import blind, loss, reference
from mien.attacks.signals import Signals, pool
from mien.core import plugins
from mien.core.config import Section
from mien.core.errors import MienError
from mien.data.features import WindowTable

CASES = json.loads((Path(__file__).parent.parent / "reference" / "attacks.json").read_text())
GOLD = {c["name"]: c for c in CASES}
KINDS = ("attacks/membership", "attacks/identity")


def signals(seed=0, n=5, windows=4, columns=6, shift=0.0, **changes):
    """n + n persons with two recordings each; features vary by person, and `shift` in every column."""
    rng = np.random.default_rng(seed)
    who = np.repeat(np.arange(2 * n), windows)
    member = who < n
    features = rng.standard_normal((2 * n, columns))[who] + rng.standard_normal((len(who), columns))
    fields = {
        "recording": [f"p{p}/{k % 2}" for p, k in zip(who, np.tile(np.arange(windows), 2 * n), strict=True)],
        "person": [f"p{p}" for p in who],
        "member": member,
        "label": np.where(np.arange(len(who)) % 2, "calm", "stress"),
        "n_tokens": np.full(len(who), 64),
        "made_with": "abc",
        "loss": rng.random(len(who)) + 1,
        "loss_base": rng.random(len(who)) + 2,
        "features": features + shift * member[:, None],
    }
    return Signals(**{**fields, **changes})


def table(persons, recordings, windows, centre, seed, noise=0.5):
    """Windows of persons, each around a centre of its own."""
    rng = np.random.default_rng(seed)
    rows = [(p, r, w) for p in persons for r in range(recordings) for w in range(windows)]
    X = np.array([centre[p] for p, _, _ in rows]) + noise * rng.standard_normal((len(rows), len(centre[persons[0]])))
    return WindowTable(
        X=X,
        meta=np.zeros((len(rows), 0)),
        label=np.array(["calm" if w % 2 else "stress" for _, _, w in rows], dtype=object),
        person=np.array([p for p, _, _ in rows], dtype=object),
        recording=np.array([f"{seed}:{p}/{r}" for p, r, _ in rows], dtype=object),
        skipped={},
    )


# --- every plug-in --------------------------------------------------------------------------------------
@pytest.mark.parametrize(("kind", "name"), [(k, n) for k in KINDS for n in plugins.names(k)])
def test_conformance(kind, name):
    module = plugins.load(kind, name)
    assert issubclass(module.Config, Section)
    module.Config()  # every option has a default
    allowed = {"loss", "loss_base", "features"} if kind.endswith("membership") else {"release", "gallery"}
    assert isinstance(module.NEEDS, tuple)
    assert module.NEEDS
    assert set(module.NEEDS) <= allowed
    assert callable(module.score)
    assert module.__doc__
    assert module.score.__doc__
    source = Path(module.__file__).read_text()
    assert "import torch" not in source
    if kind.endswith("membership"):
        s = signals()
        got = module.score(s, module.Config())
        assert got.shape == (len(s),)
        assert got.dtype == np.float64
        assert np.isfinite(got).all()
        bare = replace(s, loss=None, loss_base=None, features=None)
        with pytest.raises(MienError, match="needs"):
            module.score(bare, module.Config())


def test_the_folders_hold_what_we_think():
    assert {"loss", "reference", "blind"} <= set(plugins.names("attacks/membership"))
    assert "linkage" in plugins.names("attacks/identity")
    assert importlib.import_module("mien.attacks.judge").judge


# --- signals and pooling --------------------------------------------------------------------------------
def test_loss_and_reference_point_at_members():
    s = signals()
    assert (loss.score(s, loss.Config()) == -s.loss).all()
    assert (reference.score(s, reference.Config()) == s.loss_base - s.loss).all()


def test_gold_user_inference_is_the_reference_score_pooled():
    case = GOLD["user_inference_score"]
    logp, base = (np.array(case["inputs"][k]) for k in ("logp_target", "logp_ref"))
    s = Signals(
        recording=["a", "b", "c", "d"], person=["u", "u", "u", "v"], member=np.array([True] * 3 + [False]),
        label=["x"] * 4, n_tokens=[1] * 4, made_with="m", loss=np.r_[-logp, 1.0], loss_base=np.r_[-base, 1.0],
    )  # fmt: skip
    got = pool(s, reference.score(s, reference.Config()), "person", attack="reference")
    assert got.score[list(got.ids).index("u")] == pytest.approx(case["expected"], abs=case["tolerance"])


@pytest.mark.parametrize("unit", ["window", "recording", "person"])
def test_pooling_equals_plain_loops(unit):
    s = signals(windows=7)
    values = np.random.default_rng(1).standard_normal(len(s))
    got = pool(s, values, unit, attack="a")
    per_recording = {r: np.mean([v for v, q in zip(values, s.recording, strict=True) if q == r]) for r in s.recording}
    if unit == "window":
        assert (got.score == values).all()
        assert list(got.ids[:4]) == ["p0/0#0", "p0/1#0", "p0/0#1", "p0/1#1"]
        return
    for name, person, member, value in zip(got.ids, got.persons, got.member, got.score, strict=True):
        if unit == "recording":
            want = per_recording[name]
        else:
            want = np.mean([v for r, v in per_recording.items() if r.split("/")[0] == name])
        assert value == pytest.approx(want)
        assert member == (int(person[1:]) < 5)


def test_a_long_recording_does_not_outweigh_a_short_one():
    s = Signals(
        recording=["a"] * 9 + ["b", "c"], person=["u"] * 10 + ["v"], member=np.array([True] * 10 + [False]),
        label=["x"] * 11, n_tokens=[1] * 11, made_with="m",
    )  # fmt: skip
    got = pool(s, np.r_[np.zeros(9), 1.0, 0.0], "person")
    assert got.score[0] == 0.5


def test_mixed_units_have_no_membership():
    s = signals(member=np.arange(40) % 2 == 0)
    with pytest.raises(MienError, match="random-window"):
        pool(s, s.loss, "window")
    assert len(pool(s, s.loss, "window", allow_shared_persons=True)) == 40
    with pytest.raises(MienError, match="person has"):
        pool(s, s.loss, "person", allow_shared_persons=True)
    s = signals(member=np.arange(40) % 4 < 2)
    with pytest.raises(MienError, match="member and non-member windows"):
        pool(s, s.loss, "recording", allow_shared_persons=True)


def test_signals_come_back_and_know_their_adapter(tmp_path):
    s = signals()
    s.write(tmp_path / "signals.parquet")
    back = Signals.read(tmp_path / "signals.parquet", "abc")
    for name in ("recording", "person", "member", "label", "n_tokens", "loss", "loss_base"):
        assert (getattr(back, name) == getattr(s, name)).all(), name
    assert back.features is None
    assert [p.name for p in tmp_path.iterdir()] == ["signals.parquet"]
    with pytest.raises(MienError, match=r"'abc', not 'def'"):
        Signals.read(tmp_path / "signals.parquet", "def")
    with pytest.raises(MienError, match="no signals"):
        Signals.read(tmp_path / "other.parquet")
    (tmp_path / "bad.parquet").write_bytes(b"not parquet")
    with pytest.raises(MienError, match="not a readable parquet"):
        Signals.read(tmp_path / "bad.parquet")


def test_features_join_only_the_same_windows():
    s = signals(features=None)
    t = WindowTable(X=np.zeros((40, 3)), meta=np.ones((40, 2)), label=s.label, person=s.person,
                    recording=s.recording, skipped={})  # fmt: skip
    assert s.with_table(t).features.shape == (40, 3 + 2 + 2)
    with pytest.raises(MienError, match="are not the 40 windows"):
        s.with_table(t.rows(np.arange(39)))
    with pytest.raises(MienError, match="are not the 40 windows"):
        s.with_table(t.rows(np.arange(40)[::-1]))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"loss": np.r_[np.nan, np.ones(39)]}, "1 of 40 values of 'loss'"),
        ({"loss": np.ones(39)}, "shape \\[39\\]"),
        ({"features": np.ones((39, 2))}, "features have shape"),
        ({"features": np.full((40, 2), np.inf)}, "infinite features"),
        ({"member": np.ones(40)}, "true or false"),
        ({"recording": []}, "without a single window"),
    ],
)
def test_bad_signals_are_refused(changes, says):
    with pytest.raises(MienError, match=says) as error:
        signals(**changes)
    assert "\n" not in str(error.value)


# --- the blind attack -----------------------------------------------------------------------------------
def test_blind_is_a_fair_coin_without_signal():
    found = [blind.pairwise(signals(seed=i, n=4), blind.Config()) for i in range(60)]
    values = np.array([f.value for f in found])
    assert abs(values.mean() - 0.5) < 3 * values.std() / np.sqrt(60)
    assert values.std() / np.sqrt(60) < 0.05
    assert np.mean([f.excludes(0.5) for f in found]) <= 0.15


def test_blind_finds_a_planted_shift():
    for unit in ("person", "recording", "window"):
        found = blind.pairwise(signals(shift=6.0), blind.Config(), unit)
        assert found.value == 1.0
        assert found.excludes(0.5)


def test_blind_reads_missingness():
    s = signals()
    features = s.features.copy()
    features[s.member, 0] = np.nan
    features[:, 1] = np.nan
    assert blind.pairwise(replace(s, features=features), blind.Config()).value > 0.9


def test_blind_never_scores_a_person_it_was_fitted_on(monkeypatch):
    s = signals(n=6)
    seen = []
    real = blind._log_odds
    monkeypatch.setattr(blind, "_log_odds", lambda X, m, who, new, c: seen.append((X, new)) or real(X, m, who, new, c))
    blind.score(s, blind.Config(folds=3))
    assert len(seen) == 9
    person = {tuple(row): p for row, p in zip(s.features, s.person, strict=True)}
    for fitted, scored in seen:
        assert not {person[tuple(r)] for r in fitted} & {person[tuple(r)] for r in scored}


def test_blind_compares_every_pair_once(monkeypatch):
    kept = {}
    monkeypatch.setattr(blind, "pairs_interval", lambda wins, pairs, inflation: kept.update(pairs=pairs))
    blind.pairwise(signals(n=5), blind.Config(folds=2))
    assert (kept["pairs"] == 1).all()
    assert kept["pairs"].shape == (5, 5)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"member": np.arange(40) < 4}, "two persons on each side"),
        ({"member": np.arange(40) % 2 == 0}, "both sides"),
    ],
)
def test_blind_refuses_what_it_cannot_judge(changes, says):
    with pytest.raises(MienError, match=says):
        blind.pairwise(signals(**changes), blind.Config())


# --- linkage --------------------------------------------------------------------------------------------
PERSONS = [f"p{i}" for i in range(8)]
MEMBER = {p: i < 4 for i, p in enumerate(PERSONS)}
CENTRE = {p: np.random.default_rng(i).standard_normal(5) * 2 for i, p in enumerate(PERSONS)}
QUICK = {"trees": 30}


@pytest.mark.parametrize("classifier", ["forest", "lda"])
def test_linkage_finds_a_release_that_copies_members(classifier):
    gallery = table(PERSONS, 3, 6, CENTRE, seed=1)
    release = table(PERSONS[:4], 2, 6, CENTRE, seed=2)
    found = linkage.score(release, gallery, MEMBER, linkage.Config(classifier=classifier, **QUICK))
    assert found.control_passed
    assert found.control_rank1.value > 0.8
    assert found.chance == found.majority == 1 / 8
    assert (found.p_value, found.exact) == (pytest.approx(1 / 70), True)
    assert found.scores.score.sum() == pytest.approx(1.0)
    assert found.max_share == pytest.approx(0.25, abs=0.1)
    auc, control, share = found.results()
    assert auc.value == 1.0
    assert "4 + 4 persons" in auc.note
    assert control.higher_is_better
    assert share.low is None


def test_linkage_finds_nothing_in_a_release_of_strangers():
    gallery = table(PERSONS, 3, 6, CENTRE, seed=1)
    stranger = {f"s{i}": np.random.default_rng(100 + i).standard_normal(5) for i in range(20)}
    values = []
    for i in range(6):  # membership drawn at random: no release of strangers may know it
        drawn = dict(zip(PERSONS, np.random.default_rng(i).permutation([True] * 4 + [False] * 4), strict=True))
        found = linkage.score(table(list(stranger), 1, 4, stranger, seed=3), gallery, drawn, linkage.Config(**QUICK))
        values.append(found.p_value)
    assert np.mean(values) > 0.2


def test_linkage_is_withheld_when_the_attacker_is_blind():
    same = {p: np.zeros(5) for p in PERSONS}
    found = linkage.score(
        table(PERSONS[:4], 2, 6, same, seed=2),
        table(PERSONS, 3, 6, same, seed=1),
        MEMBER,
        linkage.Config(**QUICK),
    )
    assert not found.control_passed
    assert found.results()[0].value is None
    assert "withheld" in found.results()[0].note


def test_permutation_p_equals_brute_force_and_its_sample():
    rng = np.random.default_rng(0)
    values, member = rng.integers(0, 5, 9).astype(float), np.arange(9) < 4

    def area(chosen):
        rest = [v for i, v in enumerate(values) if i not in chosen]
        return sum((values[i] > v) + 0.5 * (values[i] == v) for i in chosen for v in rest)

    every = [area(c) for c in itertools.combinations(range(9), 4)]
    want = np.mean([a >= area((0, 1, 2, 3)) - 1e-9 for a in every])
    assert linkage.permutation_p(values, member, linkage.Config()) == (pytest.approx(want), True)
    sampled, exact = linkage.permutation_p(values, member, linkage.Config(max_assignments=1, draws=4000))
    assert not exact
    assert sampled == pytest.approx(want, abs=0.04)


def test_linkage_holds_out_whole_recordings():
    gallery = table(PERSONS, 4, 3, CENTRE, seed=1)
    who = np.unique(gallery.person, return_inverse=True)[1]
    parts = linkage._deal(gallery.recording, who, linkage.Config(folds=3))
    for r in np.unique(gallery.recording):
        assert len(set(parts[gallery.recording == r])) == 1
    for p in range(8):
        assert set(parts[who == p]) == {0, 1, 2}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda r, g, m: (g, g, m), "recordings of the gallery"),
        (lambda r, g, m: (r, g, {"p0": True}), "no membership"),
        (lambda r, g, m: (r, g.rows(np.char.endswith(g.recording.astype(str), "/0")), m), "two recordings"),
        (lambda r, g, m: (replace(r, X=r.X[:, :3]), g, m), "same columns"),
        (lambda r, g, m: (replace(r, label=np.full(len(r), "odd", dtype=object)), g, m), "share no label"),
        (lambda r, g, m: (r, g, dict.fromkeys(m, True)), "0 non-members"),
        (lambda r, g, m: (replace(r, X=np.full_like(r.X, np.nan)), g, m), "no statistic"),
    ],
)
def test_linkage_refuses_bad_input(change, says):
    release, gallery = table(PERSONS[:4], 2, 2, CENTRE, seed=2), table(PERSONS, 2, 2, CENTRE, seed=1)
    release, gallery, member = change(release, gallery, MEMBER)
    with pytest.raises(MienError, match=says) as error:
        linkage.score(release, gallery, member, linkage.Config(**QUICK))
    assert "\n" not in str(error.value)
