# pyright: reportArgumentType=false, reportOptionalOperand=false
# pyright: reportOptionalMemberAccess=false, reportCallIssue=false
import importlib
import itertools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mien.attacks import audit, judge, tokenwise
from mien.attacks.identity import linkage
from mien.attacks.membership import blind, loss, reference
from mien.attacks.signals import _AXES, Signals, TokenFile, Tokens, TokenWriter, pool
from mien.core import intervals, plugins
from mien.core.config import Plugin, Section
from mien.core.errors import MienError
from mien.core.results import Result
from mien.data.features import WindowTable

CASES = json.loads((Path(__file__).parent.parent / "reference" / "attacks.json").read_text())
GOLD = {c["name"]: c for c in CASES}
KINDS = tuple(f"attacks/{k}" for k in ("membership", "dataset", "release", "identity"))


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


def everything(n=12, **changes):
    """Signals with every field, of n + n persons, two recordings each."""
    s = signals(n=n)
    rng, rows = np.random.default_rng(1), len(s)
    inside = rng.random((4, 2 * n))[:, np.unique(s.person, return_inverse=True)[1]] < 0.5
    inside[:, s.person == s.person[0]] = np.array([True, False, True, False])[:, None]
    offsets = np.arange(0, 20 * rows + 1, 20)
    tokens = Tokens(
        first=0, offsets=offsets, logp=-rng.random(20 * rows).astype(np.float32),
        logp_base=-rng.random(20 * rows).astype(np.float32), mean=np.full(20 * rows, -1.0, np.float32),
        sd=np.ones(20 * rows, np.float32), top=rng.random(20 * rows) < 0.3,
        entropy=rng.random((20 * rows, 4)).astype(np.float16), part=np.zeros(20 * rows, np.int8),
    )  # fmt: skip
    made = dict(
        segments=-rng.random((rows, 3)), slope=rng.standard_normal(rows), zlib=np.full(rows, 90), shadow_in=inside,
        evidence=-rng.random(rows), reconstruction=-rng.random(rows),
        shadow_loss=rng.random((4, rows)) + 1, shadow_segments=-rng.random((4, rows, 3)),
        contrast=rng.random((rows, 2)), shadow_contrast=rng.random((4, rows, 2)), cosine=rng.random((rows, 3)),
        views=rng.standard_normal((rows, 3, 5)), tokens=[tokens], parts=("eda",),
        **{k: -rng.random(rows) for k in ("chosen", "rejected", "chosen_base", "rejected_base")},
    )  # fmt: skip
    return replace(s, **{**made, **changes})


OPTIONAL = (*_AXES, "tokens")


# --- every plug-in --------------------------------------------------------------------------------------
@pytest.mark.parametrize(("kind", "name"), [(k, n) for k in KINDS for n in plugins.names(k)])
def test_conformance(kind, name):
    module = plugins.load(kind, name)
    assert issubclass(module.Config, Section)
    module.Config()  # every option has a default
    assert isinstance(module.NEEDS, tuple)
    assert module.NEEDS
    function = {"attacks/dataset": "run", "attacks/release": "run"}.get(kind, "score")
    assert callable(getattr(module, function))
    assert module.__doc__
    assert getattr(module, function).__doc__
    assert "import torch" not in Path(module.__file__).read_text()
    if kind in ("attacks/membership", "attacks/dataset"):
        assert set(module.NEEDS) <= set(OPTIONAL)
        with pytest.raises(MienError, match="needs"):
            getattr(module, function)(replace(everything(), **dict.fromkeys(OPTIONAL)), module.Config())
    if kind == "attacks/membership":
        s = everything()
        got = module.score(s, module.Config())
        assert got.shape == (len(s),)
        assert got.dtype == np.float64
        assert np.isfinite(got).all()
        order = np.random.default_rng(2).permutation(len(s))
        if "tokens" not in module.NEEDS and name not in ("blind", "quantile"):  # these two deal persons into folds
            assert module.score(s.rows(order), module.Config()) == pytest.approx(got[order], abs=1e-9)


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
    s = everything()
    s.write(tmp_path / "all.parquet")
    back = Signals.read(tmp_path / "all.parquet")
    for name in _AXES:
        if name not in ("features", "cosine", "views"):
            assert np.array_equal(getattr(back, name), getattr(s, name)), name
    assert back.parts == ("eda",)
    (tmp_path / "all.parquet").unlink()
    s = signals()
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


# --- token signals on disk ------------------------------------------------------------------------------
def part(first, windows=20, length=30):
    rng = np.random.default_rng(first)
    offsets = np.concatenate([[0], np.cumsum(rng.integers(1, length, windows))])
    n = int(offsets[-1])
    return dict(
        first=first, offsets=offsets, logp=-rng.random(n).astype(np.float32), logp_base=-rng.random(n).astype(np.float32),
        mean=-rng.random(n).astype(np.float32), sd=rng.random(n).astype(np.float32), top=rng.random(n) < 0.5,
        entropy=rng.random((n, 4)).astype(np.float16), part=rng.integers(0, 3, n).astype(np.int8),
    )  # fmt: skip


def test_tokens_come_back_part_by_part(tmp_path):
    with TokenWriter(tmp_path / "tokens.parquet") as writer:
        for i in range(5):
            writer.add(**part(20 * i))
    for i, chunk in enumerate(TokenFile(tmp_path / "tokens.parquet")):
        for name, want in part(20 * i).items():
            assert np.array_equal(getattr(chunk, name), want), name
    memory = [Tokens(**part(20 * i)) for i in range(5)]
    read = tokenwise.each(TokenFile(tmp_path / "tokens.parquet"), 100, lambda t, rows: t.logp[rows].min())
    assert (read == tokenwise.each(memory, 100, lambda t, rows: t.logp[rows].min())).all()
    assert (tmp_path / "tokens.parquet").stat().st_mode


def test_token_signals_take_constant_memory(tmp_path):
    import tracemalloc

    with TokenWriter(tmp_path / "tokens.parquet") as writer:
        for i in range(60):
            writer.add(**part(400 * i, 400, 60))
    peaks = []
    for count in (400 * 5, 400 * 60):
        tracemalloc.start()
        parts = itertools.islice(TokenFile(tmp_path / "tokens.parquet"), count // 400)
        tokenwise.each(parts, count, lambda t, rows: t.entropy[rows].max())
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.5 * peaks[0] + 8 * 400 * 60


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_a_broken_part_leaves_no_file(tmp_path, wrong):
    broken = part(20)
    broken["logp"][3] = wrong
    with pytest.raises(MienError, match="'logp' holds NaN"), TokenWriter(tmp_path / "tokens.parquet") as writer:
        writer.add(**part(0))
        writer.add(**broken)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(MienError, match="no token signals"):
        list(TokenFile(tmp_path / "tokens.parquet"))


# --- controls -------------------------------------------------------------------------------------------
def test_an_attack_that_cannot_run_is_no_pass():
    found = judge.membership([Plugin(name="bavaria"), Plugin(name="reference")], everything(shadow_loss=None), 0)
    missing = next(r for r in found.results if r.metric == "bavaria.auc")
    assert missing.value is None
    assert missing.note.startswith("not run: this attack needs 'shadow_loss'")
    assert "bavaria" not in found.scores
    assert "reference" in found.scores


def test_planted_members_are_found_and_do_not_know_the_real_ones():
    s = everything(n=20)
    plant = judge.planted(s, 0)
    assert abs(np.mean(plant.member[s.member]) - 0.5) < 0.3
    for name in ("loss", "reference", "bavaria", "min_k", "ez", "slope", "preference", "cosine", "encoder"):
        module = plugins.load("attacks/membership", name)
        scores = pool(plant, module.score(plant, module.Config()), "person")
        assert intervals.auc(scores.score[scores.member], scores.score[~scores.member]) > 0.8, name
    assert (judge.planted(replace(s, member=~s.member), 0).member == plant.member).all()


def test_a_weak_attack_that_finds_nothing_is_withheld_and_a_strong_one_is_not():
    def control(value, low):
        return intervals.Interval(value=value, low=low, high=1.0, n_persons=9)

    nothing = Result(metric="a.auc", value=0.5, low=0.4, high=0.6)
    found = Result(metric="a.auc", value=0.9, low=0.8, high=1.0)
    assert judge._controlled([nothing], control(0.6, 0.4))[0].note.startswith("withheld")
    assert judge._controlled([nothing], control(0.6, 0.4))[0].value is None
    assert judge._controlled([nothing], control(0.9, 0.8))[0].value == 0.5
    assert judge._controlled([found], control(0.6, 0.4))[0].value == 0.9


def test_exposure_names_the_planted_person_and_the_decile_names_nobody():
    s = everything(n=30)
    loss_ = s.loss.copy()
    loss_[s.person == "p7"] -= 5
    scores = pool(replace(s, loss=loss_), -loss_, "person", attack="loss")
    few = pool(everything(n=12), -everything(n=12).loss, "person", attack="loss")
    assert judge.deciles(few).value is None  # a tenth of twelve is one person
    assert judge.exposure(scores)[0] == ("p7", 1.0)
    tenth = judge.deciles(scores)
    assert tenth.value > 0.9
    assert "p7" not in tenth.note


def test_an_untrained_adapter_leaks_nothing_and_recordings_kept_out_are_judged_apart():
    rng = np.random.default_rng(0)
    s = everything(n=20)
    quiet = replace(s, loss=s.loss_base + 1e-3 * rng.standard_normal(len(s)), tokens=None)
    fresh = np.array([r.endswith("/1") for r in s.recording])
    found = judge.membership([Plugin(name="reference"), Plugin(name="user")], replace(quiet, fresh=fresh), 0)
    names = {r.metric for r in found.results if r.metric.endswith(".auc")}
    assert names == {"reference.auc", "reference (other recordings).auc", "user.auc", "user (other recordings).auc"}
    for r in found.results:
        if r.metric.endswith(".auc") and r.value is not None and r.low is not None:
            assert r.low < 0.5
    before = next(r for r in found.results if r.metric == "reference.auc")
    moved = replace(quiet, fresh=fresh, loss=quiet.loss - np.where(fresh, 9.0, 0.0))
    again = judge.membership([Plugin(name="reference")], moved, 0)
    assert next(r for r in again.results if r.metric == "reference.auc").value == before.value


def test_profiles_name_plugins_that_exist():
    for name, kinds in audit.PROFILES.items():
        for kind, attacks in kinds.items():
            assert set(attacks) <= set(plugins.names(f"attacks/{kind}")), (name, kind)
    assert audit.Asked(profile="quick", membership=()).named("membership") == []
    assert [p.name for p in audit.Asked(profile="quick").named("membership")] == ["loss", "reference"]


def test_no_bound_without_coins():
    scores = pool(everything(n=30), everything(n=30).loss, "person")
    (none,) = audit.lower_bounds(scores, "loss", coins=False)
    assert none.value is None
    assert "split.coins: true" in none.note
    first, second = audit.lower_bounds(scores, "loss", coins=True)
    assert first.value is not None
    assert "if Gaussian-DP" in second.metric
