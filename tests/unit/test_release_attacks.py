# pyright: reportArgumentType=false, reportOptionalOperand=false
# pyright: reportOptionalMemberAccess=false, reportCallIssue=false, reportOperatorIssue=false
import itertools
import json
import math
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mien.attacks import releases
from mien.attacks.release import (
    distance,
    domias,
    nearest,
    ngram,
    shadow_release,
    singling_out,
)
from mien.attacks.releases import Release
from mien.core import plugins
from mien.core.config import Section
from mien.core.errors import MienError
from mien.core.intervals import Interval
from mien.core.results import Result
from mien.data.features import WindowTable

CASES = json.loads((Path(__file__).parent.parent / "reference" / "attacks.json").read_text())
GOLD = {c["name"]: c for c in CASES}
KIND = "attacks/release"
N, WINDOWS, COLUMNS, WORDS = 10, 6, 6, 12
MEMBERS = [f"c{i}" for i in range(N)]
CANDIDATES = [f"c{i}" for i in range(2 * N)]
QUICK = {"inference": {"trees": 15}, "singling_out": {"predicates": 200}}


def table(X, person, recording, label):
    return WindowTable(
        X=np.asarray(X, dtype=np.float64),
        meta=np.zeros((len(X), 0)),
        label=np.array(label, dtype=object),
        person=np.array(person, dtype=object),
        recording=np.array(recording, dtype=object),
        skipped={},
    )


def people(rng, names):
    """Windows around a centre of each person, and tokens from a habit (a Markov chain) of each person."""
    who = np.repeat(np.arange(len(names)), WINDOWS)
    X = rng.standard_normal((len(names), COLUMNS))[who] + rng.standard_normal((len(who), COLUMNS))
    label = np.where(X[:, 0] + X[:, 1] + rng.standard_normal(len(who)) > 0, "calm", "stress")
    habits = rng.dirichlet(np.full(WORDS, 0.5), (len(names), WORDS)).cumsum(-1)
    tokens = []
    for w in who:
        line = [int(rng.integers(WORDS))]
        for u in rng.random(30):
            line.append(min(int(np.searchsorted(habits[w, line[-1]], u)), WORDS - 1))
        tokens.append(np.array(line))
    recording = [f"{names[w]}/{k % 2}" for w, k in zip(who, np.tile(np.arange(WINDOWS), len(names)), strict=True)]
    return table(X, [names[w] for w in who], recording, label), tokens


def synthesise(rng, source, tokens, persons, noise, name="s"):
    """A release: the persons' windows with noise, and their tokens as they are; every window its own person."""
    rows = np.flatnonzero(np.isin(source.person, list(persons)))
    ids = [f"{name}{i}" for i in range(len(rows))]
    X = source.X[rows] + noise * rng.standard_normal((len(rows), COLUMNS))
    return table(X, ids, ids, source.label[rows]), [tokens[i] for i in rows]


def release(seed=0, noise=0.02, population=False, shadows=0):
    """What members leave behind with `noise`, or (population) what strangers do; shadows halve the candidates."""
    rng = np.random.default_rng(seed)
    candidates, spoken = people(rng, CANDIDATES)
    reference, heard = people(rng, [f"r{i}" for i in range(2 * N)])
    source, said, inside = candidates, spoken, MEMBERS
    if population:
        inside = [f"t{i}" for i in range(N)]
        source, said = people(rng, inside)
    synthetic, told = synthesise(rng, source, said, inside, noise)
    made = []
    for k in range(shadows // 2):
        half = rng.permutation(CANDIDATES)
        for part in (half[:N], half[N:]):  # each candidate is in exactly half of the shadows
            t, words = synthesise(rng, candidates, spoken, part, noise, name=f"x{k}-")
            made += [(t, frozenset(part)), (words, frozenset(part))]
    return Release(
        synthetic=synthetic, candidates=candidates, member={p: p in MEMBERS for p in CANDIDATES}, reference=reference,
        synthetic_tokens=told, candidate_tokens=spoken, reference_tokens=heard, shadows=made or None,
    )  # fmt: skip


def run(name, r, blind=None, **options):
    module = plugins.load(KIND, name)
    return {x.metric: x for x in module.run(r, module.Config(**QUICK.get(name, {}) | options), blind=blind)}


def person_auc(module, r, **options):
    found = module.run(r, module.Config(**options))
    return next(x for x in found if x.metric.endswith(".auc") and x.unit == "person")


@pytest.fixture(scope="module")
def copying():
    return release(shadows=8)


@pytest.fixture(scope="module")
def strangers():
    return release(seed=1, population=True, shadows=8)


# --- every plug-in --------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", plugins.names(KIND))
def test_conformance(name, copying):
    module = plugins.load(KIND, name)
    assert issubclass(module.Config, Section)
    module.Config()
    assert module.NEEDS
    assert set(module.NEEDS) <= set(Release.__dataclass_fields__)
    assert module.__doc__
    assert module.run.__doc__
    assert "import torch" not in Path(module.__file__).read_text()
    found = module.run(copying, module.Config(**QUICK.get(name, {})))
    assert found
    assert all(isinstance(x, Result) and x.metric.startswith(f"{name}.") and x.note for x in found)
    optional = {"reference", "shadows", "synthetic_tokens", "candidate_tokens"} & set(module.NEEDS)
    bare = replace(copying, reference=None, reference_tokens=None, synthetic_tokens=None, shadows=None)
    if optional:
        with pytest.raises(MienError, match="this attack needs .* lacks"):
            module.run(bare, module.Config())
    else:
        module.run(bare, module.Config())


def test_the_folder_holds_what_we_think():
    assert plugins.names(KIND) == [
        "distance", "domias", "inference", "linkability", "nearest", "ngram", "shadow_release", "singling_out",
    ]  # fmt: skip


@pytest.mark.parametrize("module", [nearest, domias, ngram, shadow_release])
def test_a_copying_release_is_found_and_one_of_strangers_is_not(module, copying, strangers):
    found = person_auc(module, copying)
    assert found.low > 0.5
    null = person_auc(module, strangers)
    assert null.low < 0.5 < null.high


@pytest.mark.parametrize("module", [nearest, domias, ngram])
def test_null_scores_are_fair_on_average(module):
    found = [person_auc(module, release(seed=s, population=True)) for s in range(10, 30)]
    values = np.array([f.value for f in found])
    assert abs(values.mean() - 0.5) < 3 * values.std() / math.sqrt(len(values))
    assert sum(not f.low <= 0.5 <= f.high for f in found) <= 3


@pytest.mark.parametrize(
    ("name", "metric"),
    [("singling_out", "risk"), ("linkability", "risk"), ("inference", "risk"), ("inference", "advantage")],
)
def test_a_copying_release_singles_out_links_and_tells_secrets(name, metric, copying, strangers):
    options = {"secret": 0} if name == "inference" else {}
    found = run(name, copying, **options)[f"{name}.{metric}"]
    assert found.low > 0
    assert not found.higher_is_better
    null = run(name, strangers, **options)[f"{name}.{metric}"]
    assert null.value is None or null.low <= 0


def test_a_copied_label_is_no_leak_beyond_what_anybody_can_tell(strangers):
    found = run("inference", strangers)
    assert found["inference.advantage"].low < 0
    assert found["inference.advantage"].baselines[-1].name == "held-out persons"
    free = next(b for b in found["inference.attack_rate"].baselines if b.name.startswith("model-free"))
    assert free.value > 0.6  # the label follows from the signals, for everybody


@pytest.mark.parametrize("per_label", [True, False])
def test_nearest_equals_plain_loops(copying, per_label):
    r = replace(copying, synthetic=copying.synthetic.rows(np.arange(0, 60, 3)), synthetic_tokens=None)
    got = nearest.score(r, nearest.Config(per_label=per_label))
    scale = r.scale()
    x, made, other = (scale(t.X) for t in (r.candidates, r.synthetic, r.reference))
    for i in range(0, len(x), 17):
        a, b = (
            min(
                math.dist(x[i], v)
                for v, label in zip(points, t.label, strict=True)
                if not per_label or label == r.candidates.label[i]
            )
            for points, t in ((made, r.synthetic), (other, r.reference))
        )
        assert got[i] == pytest.approx(b - a, abs=1e-9)


# --- gold cases and slow oracles ------------------------------------------------------------------------
def test_gold_domias_kernel_estimates_of_one_point_are_its_gaussians():
    case = GOLD["domias_gauss_log_ratio"]
    x, zero = np.array(case["inputs"]["x"], dtype=float)[:, None], np.zeros((1, 1))
    got = domias.log_density(x, zero, 1.0) - domias.log_density(x, zero, 2.0)
    assert got == pytest.approx(case["expected"], abs=case["tolerance"])


def test_domias_far_away_is_finite():
    got = domias.log_density(np.full((1, 3), 1e4), np.zeros((5, 3)), 0.1)
    assert np.isfinite(got).all()


def test_whitening_is_the_reference_s():
    rng = np.random.default_rng(0)
    fit = rng.standard_normal((200, 4)) @ rng.standard_normal((4, 7))
    z = domias.whitening(fit, 32)(fit)
    assert z.shape == (200, 4)
    assert z.T @ z / 200 == pytest.approx(np.eye(4), abs=1e-9)
    with pytest.raises(MienError, match="all alike"):
        domias.whitening(np.ones((5, 3)), 2)


def test_gold_anonymeter_risk():
    case = GOLD["anonymeter_risk"]
    i, want = case["inputs"], case["expected"]
    attack, half_a = releases.wilson(i["success_attack"], i["n"], i["confidence"])
    control, half_c = releases.wilson(i["success_control"], i["n"], i["confidence"])
    got = {
        "attack_rate": attack, "attack_err": half_a, "control_rate": control, "control_err": half_c,
        "risk": releases.risk(attack, control),
    }  # fmt: skip
    assert got == pytest.approx(want, abs=case["tolerance"])


def test_gold_singling_out_baseline():
    case = GOLD["singling_out_baseline"]
    i = case["inputs"]
    assert singling_out.baseline(i["n"], i["w"]) == pytest.approx(case["expected"], abs=case["tolerance"])
    drawn = np.random.default_rng(0).random((i["n"], 20_000)) < i["w"]
    assert singling_out.isolated(drawn, i["n"]) == pytest.approx(case["expected"], abs=0.015)


def test_gold_dcr_passes_and_the_release_is_inverted_all_the_same():
    case = GOLD["dcr_blind_spot"]
    real, held, made = (np.array(case["inputs"][k])[:, None] for k in ("train", "holdout", "synthetic"))
    want = case["expected"]
    assert distance.closest(made, real).mean() == pytest.approx(want["mean_dcr_train"], abs=case["tolerance"])
    assert distance.closest(made, held).mean() == pytest.approx(want["mean_dcr_holdout"], abs=case["tolerance"])
    names = ["a", "b", "c", "x", "y", "z"]
    r = Release(
        synthetic=table(made, ["s"] * 3, ["s1", "s2", "s3"], ["calm"] * 3),
        candidates=table(np.vstack([real, held]), names, names, ["calm"] * 6),
        member={n: n in "abc" for n in names},
    )
    found = run("distance", r)
    assert found["distance.dcr"].value > 0  # no copy: it passes
    assert (made - 1 == real).all()  # and every value comes back
    assert all("proves nothing" in x.note for x in found.values())
    assert all(x.low is None for x in found.values())


def test_distances_of_a_copy_and_of_strangers(copying, strangers):
    assert run("distance", copying)["distance.closer_to_members"].value > 0.95
    assert abs(run("distance", strangers)["distance.closer_to_members"].value - 0.5) < 0.2
    assert distance.ratio(np.array([[0.0, 0.0], [0.0, 2.0], [1.0, 2.0]])).tolist() == [1.0, 0.0, 0.5]


@settings(max_examples=30, deadline=None)
@given(st.integers(3, 6), st.integers(1, 4), st.integers(0, 2**20))
def test_isolated_is_the_mean_over_every_group(persons, boxes, bits):
    hit = np.array([(bits >> i) & 1 for i in range(persons * boxes)], dtype=bool).reshape(persons, boxes)
    for size in range(1, persons):
        groups = [hit[list(g)].sum(0) == 1 for g in itertools.combinations(range(persons), size)]
        assert singling_out.isolated(hit, size) == pytest.approx(np.mean(groups))


def test_boxes_hold_their_own_synthetic_window_alone():
    made = np.random.default_rng(0).standard_normal((30, 4))
    columns, centre, half = singling_out.boxes(made, singling_out.Config(predicates=40), np.random.default_rng(1))
    hit = singling_out.fits(made, np.arange(30), 30, columns, centre, half)
    assert (hit.sum(0) == 1).all()
    with pytest.raises(MienError, match="copies of one another"):
        singling_out.boxes(np.ones((5, 2)), singling_out.Config(), np.random.default_rng(0))


def slow_ngram(corpus, sequence, order, vocabulary):
    """The same model from dictionaries of tuples."""
    count, after = Counter(), {}
    for line in corpus:
        padded = ["start"] * order + list(line)
        for i in range(order, len(padded)):
            for k in range(order):
                history = tuple(padded[i - k : i])
                count[history, padded[i]] += 1
                after.setdefault(history, Counter())[padded[i]] += 1

    def p(history, word):
        lower = 1 / vocabulary if len(history) == 0 else p(history[1:], word)
        followers = after.get(history, {})
        total = sum(followers.values()) + len(followers)
        return (count[history, word] + len(followers) * lower) / total if total else lower

    padded = ["start"] * order + list(sequence)
    at = range(order, len(padded))
    return float(np.mean([math.log(p(tuple(padded[i - order + 1 : i]), padded[i])) for i in at]))


LINES = st.lists(st.lists(st.integers(0, 4), min_size=1, max_size=7), min_size=1, max_size=5)


@settings(max_examples=60, deadline=None)
@given(LINES, LINES, st.integers(1, 4))
def test_ngram_equals_dictionaries_and_sums_to_one(corpus, lines, order):
    corpus, lines = ([np.array(v) for v in x] for x in (corpus, lines))
    got = ngram.log_probability(corpus, lines, order, 5)
    assert got == pytest.approx([slow_ngram(corpus, v, order, 5) for v in lines], abs=1e-12)
    stem = lines[0]
    ends = ngram.log_probability(corpus, [np.r_[stem, w] for w in range(5)], order, 5) * (len(stem) + 1)
    start = ngram.log_probability(corpus, [stem], order, 5)[0] * len(stem)
    assert np.exp(ends - start).sum() == pytest.approx(1)


def test_ngram_against_shadows_leaves_out_those_with_the_person(copying):
    found = person_auc(ngram, copying, against="shadows")
    assert found.low > 0.5
    got = ngram.score(copying, ngram.Config(against="shadows", order=2))
    words = len(np.unique(np.concatenate(copying.candidate_tokens)))
    first = [copying.candidate_tokens[0]]
    own = ngram.log_probability(copying.synthetic_tokens, first, 2, words)[0]
    rest = [
        ngram.log_probability(made, first, 2, words)[0]
        for made, who in copying.shadows
        if not isinstance(made, WindowTable) and "c0" not in who
    ]
    assert len(rest) == 4
    assert got[0] == pytest.approx(own - np.mean(rest), abs=1e-9)


# --- risk and its limits --------------------------------------------------------------------------------
@settings(max_examples=200, deadline=None)
@given(*[st.floats(0.0, 1.0) for _ in range(6)])
def test_risk_lies_within_its_limits_which_solve_their_equation(a, a_low, a_high, c, c_low, c_high):
    attack = Interval(value=a, low=a * a_low, high=a + (1 - a) * a_high, n_persons=5)
    control = Interval(value=c, low=c * c_low, high=c + (1 - c) * c_high, n_persons=5)
    low, high = releases.risk_limits(attack, control)
    if low is None:
        assert control.high >= 1 - 1e-12
        return
    assert low - 1e-6 * abs(low) - 1e-6 <= releases.risk(a, c) <= high + 1e-6
    ratio = 1 - low
    left = (1 - a - ratio * (1 - c)) ** 2
    right = (a - attack.low) ** 2 + ratio**2 * (control.high - c) ** 2
    assert left == pytest.approx(right, rel=1e-5, abs=1e-5)


def test_risk_against_simulated_persons():
    rng = np.random.default_rng(0)
    wrong = 0
    for _ in range(200):
        rows = (rng.beta(2.5, 2.5, 10), rng.beta(1.0, 4.0, 10))
        hits = [rng.binomial(10, p) / 10 for p in rows]
        found = releases.compare(
            "toy", np.mean, *hits, naive=0.0, trials=(np.ones(2), np.ones(2)), blind=None
        )[0]  # fmt: skip
        wrong += not found.low <= (0.5 - 0.2) / (1 - 0.2) <= found.high
    assert wrong <= 20


def test_a_control_that_always_succeeds_measures_nothing():
    ones = np.ones(6)
    risk, attack, control = releases.compare(
        "toy", np.mean, ones, ones, naive=0.1, trials=(ones, ones), blind=None
    )  # fmt: skip
    assert risk.value is None
    assert "not measurable" in risk.note
    assert (attack.value, control.value) == (1, 1)
    assert releases.risk(1.0, 1.0) is None


def test_identical_data_raises_no_math_error(copying):
    """Members, held-out persons and the release hold the same windows: nothing can be measured, nothing breaks."""
    t = copying.candidates
    X, label = np.tile(t.X[: N * WINDOWS], (2, 1)), np.tile(t.label[: N * WINDOWS], 2)
    r = replace(
        copying, candidates=replace(t, X=X, label=label), synthetic=replace(copying.synthetic, X=X[: N * WINDOWS])
    )
    for name in ("singling_out", "linkability", "inference"):
        risk = run(name, r)[f"{name}.risk"]
        assert risk.value is None or risk.low <= 0 <= risk.high, name
    assert run("linkability", r)["linkability.risk"].value is None
    assert person_auc(nearest, r).value == pytest.approx(0.5)


def test_a_failed_attack_is_no_pass():
    few = np.array([0.0, 0.1, 0.0, 0.1])
    risk = releases.compare("toy", np.mean, few, few, naive=0.2, trials=(few, few), blind=None)[0]
    assert risk.value is None
    assert risk.low is None
    assert "stronger attack" in risk.note


@pytest.mark.parametrize("name", ["nearest", "domias", "linkability", "singling_out", "inference", "shadow_release"])
def test_an_unfair_split_withholds_every_headline(name, copying):
    unfair = Interval(value=0.9, low=0.8, high=0.95, n_persons=20)
    found = run(name, copying, blind=unfair)
    headline = found.get(f"{name}.auc", found.get(f"{name}.risk"))
    assert headline.value is None
    assert "withheld" in headline.note
    assert name != "inference" or found["inference.advantage"].value is None


def test_one_person_supports_no_interval(copying):
    keep = np.isin(copying.candidates.person, ["c0", *CANDIDATES[N:]])
    r = replace(copying, candidates=copying.candidates.rows(keep), candidate_tokens=None, synthetic_tokens=None)
    risk = run("linkability", r)["linkability.risk"]
    assert (risk.low, risk.high) == (None, None)
    assert "too few persons" in risk.note
    with pytest.raises(MienError, match="two members"):
        run("singling_out", r)


# --- what is missing, odd or wrong ----------------------------------------------------------------------
@pytest.mark.parametrize("name", plugins.names(KIND))
def test_missing_streams_and_constant_columns(name, copying):
    def spoil(t, i):
        X = np.hstack([t.X, np.ones((len(t), 1)), np.full((len(t), 1), np.nan)])
        X[i::7, 2] = np.nan
        return replace(t, X=X)

    r = replace(
        copying, synthetic=spoil(copying.synthetic, 0), candidates=spoil(copying.candidates, 1),
        reference=spoil(copying.reference, 2),
        shadows=[(spoil(m, 3) if isinstance(m, WindowTable) else m, who) for m, who in copying.shadows],
    )  # fmt: skip
    found = run(name, r)
    headline = found.get(f"{name}.auc", found.get(f"{name}.risk", found.get(f"{name}.closer_to_members")))
    assert headline.value > 0.5 or (name == "inference" and headline.value > 0)


@settings(max_examples=10, deadline=None)
@given(st.lists(st.floats(0.01, 100.0), min_size=COLUMNS, max_size=COLUMNS), st.floats(-50, 50))
def test_units_do_not_matter(scale, shift):
    r = release()

    def other(t):
        return replace(t, X=t.X * np.array(scale) + shift)

    changed = replace(
        r, synthetic=other(r.synthetic), candidates=other(r.candidates), reference=other(r.reference)
    )  # fmt: skip
    for module in (nearest, domias):
        got = module.score(changed, module.Config())
        assert got == pytest.approx(module.score(r, module.Config()), abs=1e-5)


def test_nothing_is_fitted_on_the_candidates(copying):
    """A candidate's score depends on no other candidate."""
    some = np.arange(0, 2 * N * WINDOWS, 5)
    r = replace(
        copying, candidates=copying.candidates.rows(some), shadows=None,
        candidate_tokens=[copying.candidate_tokens[i] for i in some],
    )  # fmt: skip
    for module in (nearest, domias, ngram):
        assert module.score(r, module.Config()) == pytest.approx(module.score(copying, module.Config())[some])


@pytest.mark.parametrize("secret", ["label", 1])
def test_inference_leaves_out_windows_without_the_secret(secret, copying):
    X = copying.candidates.X.copy()
    X[::9, 1] = np.nan
    r = replace(copying, candidates=replace(copying.candidates, X=X))
    found = run("inference", r, secret=secret)
    assert ("left out" in found["inference.advantage"].note) == (secret == 1)
    assert found["inference.attack_rate"].value > 0.8


def change(**fields):
    return lambda r: replace(r, **{k: f(r) for k, f in fields.items()})


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (change(reference=lambda r: r.candidates), "shares 20 persons"),
        (change(reference=lambda r: replace(r.reference, person=r.candidates.person)), "shares 20 persons"),
        (change(reference=lambda r: replace(r.reference, recording=r.candidates.recording)), "or recordings"),
        (change(member=lambda r: r.member | {"r0": True}), "shares 1 persons"),
        (change(synthetic=lambda r: replace(r.candidates), synthetic_tokens=lambda r: None), "real recordings"),
        (change(synthetic=lambda r: replace(r.reference), synthetic_tokens=lambda r: None), "real recordings"),
        (change(member=lambda r: {"c0": True}), "19 of 20 candidates have no membership"),
        (change(member=lambda r: dict.fromkeys(CANDIDATES, True)), "0 held-out"),
        (change(member=lambda r: dict.fromkeys(CANDIDATES, 1)), "true or false"),
        (change(synthetic=lambda r: replace(r.synthetic, X=r.synthetic.X[:, :3])), "columns"),
        (change(synthetic=lambda r: replace(r.synthetic, X=r.synthetic.X[:, 0])), "columns"),
        (change(candidates=lambda r: replace(r.candidates, X=np.full_like(r.candidates.X, np.inf))), "infinite"),
        (change(candidates=lambda r: replace(r.candidates, label=["calm"])), "not as many labels"),
        (change(synthetic=lambda r: r.synthetic.rows(np.arange(0))), "windows \\[0, 6\\]"),
        (change(synthetic_tokens=lambda r: r.synthetic_tokens[1:]), "59 token sequences for 60"),
        (change(candidate_tokens=lambda r: [np.array([0.5])] * 120), "120 of 120 token"),
        (change(candidate_tokens=lambda r: [np.array([], dtype=int)] * 120), "120 of 120 token"),
        (change(reference=lambda r: None), "without its windows"),
        (change(shadows=lambda r: [(r.synthetic, frozenset(MEMBERS))]), "members in question"),
        (change(shadows=lambda r: [([np.array([0.1])], frozenset())]), "shadow 0: 1 of 1 token"),
        (change(shadows=lambda r: [(r.synthetic.rows(np.arange(0)), frozenset())]), "shadow 0: windows"),
    ],
)
def test_bad_releases_are_refused(bad, says, copying):
    with pytest.raises(MienError, match=says) as error:
        bad(copying)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "options", "bad", "says"),
    [
        ("nearest", {}, change(reference=lambda r: replace(r.reference, X=r.reference.X * np.nan)), "no statistic"),
        ("nearest", {"per_label": True}, change(reference=lambda r: replace(r.reference, label=["calm"] * 120)), "stress"),
        ("ngram", {}, change(reference_tokens=lambda r: None), "reference_tokens"),
        ("ngram", {"against": "shadows"}, change(shadows=lambda r: r.shadows[::2]), "no shadow release has tokens"),
        ("ngram", {"against": "shadows"}, change(shadows=lambda r: r.shadows[1:2]), "in every shadow"),
        ("shadow_release", {}, change(shadows=lambda r: r.shadows[1::2]), "0 shadow releases"),
        ("shadow_release", {}, change(shadows=lambda r: r.shadows[:6]), "3 shadow releases"),
        (
            "shadow_release", {}, change(shadows=lambda r: [(m, frozenset({"c0"})) for m, _ in r.shadows]),
            "20 of 20 candidates",
        ),
        ("linkability", {"first": (0, 1), "second": (1, 2)}, change(), "two halves"),
        ("linkability", {"first": (0,), "second": (9,)}, change(), "two halves"),
        ("linkability", {"neighbours": 99}, change(), "99 neighbours"),
        ("inference", {"secret": 9}, change(), "columns"),
        ("inference", {"secret": 1, "known": (1, 2)}, change(), "columns"),
        (
            "inference", {}, change(reference=lambda r: replace(r.reference, person=["r"] * 120)), "one person",
        ),
        (
            "inference", {"secret": 0},
            change(synthetic=lambda r: replace(r.synthetic, X=np.where(np.arange(6) == 0, np.nan, r.synthetic.X))),
            "no window of the release",
        ),
    ],
)  # fmt: skip
def test_attacks_refuse_what_they_cannot_run_on(name, options, bad, says, copying):
    with pytest.raises(MienError, match=says) as error:
        run(name, bad(copying), **options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("successes", "n"), [(3, 2), (-1, 2), (0, 0)])
def test_wilson_refuses_what_is_no_proportion(successes, n):
    with pytest.raises(MienError, match="proportion"):
        releases.wilson(successes, n)


def test_who_is_served_by_a_release():
    """A release that copies the members covers them wholly, and the others less."""
    r = release()
    found = releases.served(r)
    assert set(found) == set(CANDIDATES)
    inside = np.array([found[p] for p in CANDIDATES if r.member[p]])
    outside = np.array([found[p] for p in CANDIDATES if not r.member[p]])
    assert (inside[:, 0] == 1).all()
    assert outside[:, 0].mean() < 0.9
    assert inside[:, 1].mean() > outside[:, 1].mean()
