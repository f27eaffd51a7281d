"""Every modality carries its injected effects at their size, loses them at 0, and hangs together as documented."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from mien.core import config as recipes
from mien.core.errors import MienError
from mien.core.records import Events, Recording, Signal, Text
from mien.data import behaviour, features
from mien.data.datasets import simulated as sim
from mien.data.datasets import simulated_life as life

NONE = {"label_effect": 0.0, "person_effect": 0.0, "session_jitter": 0.0, "sex_effect": 0.0, "age_effect": 0.0,
        "date_confound": 0.0, "device_drift": 0.0}  # fmt: skip
TRAITS = {"lab": life.LAB, "days": life.DAYS}
BOTH = pytest.mark.parametrize("mode", ["lab", "days"])


def latents(persons: int = 300, **options) -> list[life.Life]:
    config = life.Config(persons=persons, **options)
    return [x for p in range(persons) for x in life.lives(config, p)]


def made(persons: int, *streams: str, **options) -> tuple[list[life.Life], list[Recording]]:
    config = life.Config(persons=persons, streams=streams, **options)
    lives = [x for p in range(persons) for x in life.lives(config, p)]
    return lives, [life.record(x, config) for x in lives]


def signal(r: Recording, name: str) -> np.ndarray:
    s = r.streams[name]
    assert isinstance(s, Signal)
    return s.values.astype(float)


def events(r: Recording, name: str) -> Events:
    s = r.streams[name]
    assert isinstance(s, Events)
    return s


def words(r: Recording) -> Text:
    s = r.streams["transcript"]
    assert isinstance(s, Text)
    return s


def contrast(lives: list[life.Life], values) -> tuple[float, float]:
    """Second class less first, within persons: its mean over persons and that mean's standard error."""
    label = np.array([x.label for x in lives]).reshape(-1, 4)
    got = np.asarray(values, dtype=float).reshape(-1, 4)
    d = np.array([g[k].mean() - g[~k].mean() for g, k in zip(got, label, strict=True)])
    return d.mean(), d.std(ddof=1) / np.sqrt(len(d))


# --- the cohort -------------------------------------------------------------------------------------------------


def test_simulated_is_what_it_was():
    """Others freeze its configuration by hash and their results by number. Rounded, for sines differ in the last bit by
    processor. Changing it on purpose: raise its VERSION, and record the new digest here."""
    config = sim.Config()
    assert config.model_dump() == {
        "persons": 40, "sessions": 4, "seconds": 60.0, "seed": 0, "label_effect": 1.0, "person_effect": 1.0,
        "session_jitter": 0.5, "sex_effect": 1.0, "age_effect": 1.0, "date_confound": 0.3, "device_drift": 0.2,
        "outliers": 0, "outlier_sd": 4.0,
    }  # fmt: skip
    digest = hashlib.sha256()
    for s in sim.sessions(config, 0) + sim.sessions(config, 39):
        r = sim.record(s, config)
        digest.update(f"{r.id} {r.start_s} {dict(r.labels)} {dict(r.attributes)}".encode())
        for name in sorted(r.signals):
            digest.update(np.rint(r.signals[name].values.astype(float) * 1e3).astype(np.int64).tobytes())
    assert (sim.VERSION, digest.hexdigest()[:16]) == (3, "06771de6ba76c6b7")


@BOTH
def test_a_cohort(home, mode):
    options = {"persons": 3, "sessions": 3, "seconds": 10, "days": 2, "mode": mode, "outliers": 1}
    cohort = life.load(life.Config(**options))
    assert (len(cohort), len(cohort.persons)) == (9, 3)
    assert cohort.persons[0] == "life0-00000"
    assert dict(cohort.card.streams) == life.STREAMS[mode]
    task, classes = life.LABELS[mode]
    seen: dict[str, set] = {}
    for r in cohort:
        seen.setdefault(r.person, set()).add(r.labels[task])
        assert list(r.streams) == list(life.STREAMS[mode])
        seconds = 10 if mode == "lab" else 2 * sim.DAY_S
        for name, spec in cohort.card.streams.items():
            s = r.streams[name]
            assert s.seconds == seconds
            if isinstance(s, Signal):
                assert spec.range is not None
                assert len(s.values) == round(seconds * spec.rate_hz)
                assert spec.range[0] <= s.values.min() <= s.values.max() <= spec.range[1], name
        assert np.isfinite(features.vector(r.streams, cohort.card)).all()
    assert all(s == set(classes) for s in seen.values())
    assert len({r.person for r in cohort if r.attributes["outlier"]}) == 1
    assert life.load(life.Config(**options)).fingerprint == cohort.fingerprint
    assert len(cohort.for_purpose("training")[0]) == 9


def same(a: Recording, b: Recording) -> bool:
    parts = ("values", "times_s", "ends_s", "durations_s", "codes", "party", "text")
    return a.streams.keys() == b.streams.keys() and all(
        np.array_equal(getattr(a.streams[n], k), getattr(b.streams[n], k))
        for n in a.streams for k in parts if hasattr(a.streams[n], k)
    )  # fmt: skip


@BOTH
def test_a_recording_depends_on_seed_person_and_session_only(mode):
    options = {"mode": mode, "seconds": 10, "days": 2}
    few, more, other = (
        life.Config(persons=p, seed=seed, **options) for p, seed in [(2, 0), (5, 0), (2, 1)]
    )  # fmt: skip
    one = life.lives(few, 1)[2]
    whole = life.record(one, few)
    assert same(whole, life.record(one, few))
    assert same(whole, life.record(life.lives(more, 1)[2], more))
    assert not same(whole, life.record(life.lives(other, 1)[2], other))
    assert not same(whole, life.record(life.lives(few, 1)[1], few))
    for name in life.STREAMS[mode]:  # asking for less changes nothing of what is left
        alone = life.record(one, few.model_copy(update={"streams": (name,)}))
        assert list(alone.streams) == [name]
        part = Recording(id="x", person="x", streams={name: whole.streams[name]})
        assert same(alone, part), name


def test_persons_are_others_than_those_of_simulated_and_the_same_in_both_modes():
    flat = {"label_effect": 0.0}
    mine, theirs = life.lives(life.Config(**flat), 0), sim.sessions(sim.Config(**flat), 0)
    assert mine[0].session.z["hr"] != theirs[0].z["hr"]
    for a, b in zip(mine, life.lives(life.Config(mode="days", **flat), 0), strict=True):
        assert (a.session.z["hr"], a.z["cadence"], a.session.sex) == (b.z["hr"], b.z["cadence"], b.session.sex)


def test_weeks_begin_at_midnight_and_do_not_overlap():
    for p in range(30):
        start = np.array([x.start_s for x in life.lives(life.Config(persons=30, mode="days"), p)])
        assert (start % sim.DAY_S == 0).all()
        assert (np.diff(start) >= 7 * sim.DAY_S).all()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"streams": ["vioce"]}, "no stream 'vioce' in mode lab; did you mean 'voice'"),
        ({"streams": ["voice"], "mode": "days"}, "no stream 'voice' in mode days"),
        ({"mode": "weeks"}, "mode"),
        ({"missing": 1.0}, "missing"),
        ({"couplin": 1.0}, "did you mean 'coupling'"),
    ],
)
def test_what_cannot_be_asked_for(home, options, says):
    with pytest.raises(MienError, match=says):
        life.load(recipes.parse(life.Config, options, "cohort"))


@BOTH
def test_missing_streams_are_absent_at_random(mode):
    options = {"mode": mode, "seconds": 10.0, "days": 1}
    names = [n for n in life.STREAMS[mode] if n != "voice"]
    lives, some = made(50, *names, missing=0.3, **options)
    n = len(some) * len(names)
    absent = n - sum(len(r.streams) for r in some)
    # the last one standing stays: at five streams that saves .3**5 of a stream per recording
    assert abs(absent - 0.3 * n) < 4 * np.sqrt(n * 0.3 * 0.7) + len(some) * 0.3 ** len(names)
    for name in names:
        gone = sum(name not in r.streams for r in some)
        assert abs(gone - 0.3 * len(some)) < 4.5 * np.sqrt(len(some) * 0.3 * 0.7), name
    whole = life.record(lives[7], life.Config(persons=50, streams=tuple(names), **options))
    assert set(whole.streams) == set(names)
    kept = {k: whole.streams[k] for k in some[7].streams}
    assert same(some[7], Recording(id="x", person="x", streams=kept))
    _, few = made(20, *names, missing=0.97, **options)
    assert min(len(r.streams) for r in few) == 1


# --- the effects, in the latents --------------------------------------------------------------------------------


@BOTH
def test_all_effects_off_leaves_nothing(mode):
    off = latents(20, mode=mode, **NONE)
    for name in TRAITS[mode]:
        assert np.ptp([x.z[name] for x in off]) == 0
    assert all(not v.any() for x in off for v in x.habits.values())


@BOTH
@pytest.mark.parametrize("size", [0.5, 2.0])
def test_label_sex_and_age_at_their_size(mode, size):
    """Regressing each trait on label, sex and age gives the weights back, within 4.5 standard errors over persons."""
    on = latents(mode=mode, label_effect=size, sex_effect=size, age_effect=size)
    X = np.array([[1, x.label, (x.session.sex == "f") - 0.5, (x.session.age - 45) / 20] for x in on], dtype=float)
    bread = np.linalg.inv(X.T @ X)
    for name, trait in TRAITS[mode].items():
        y = np.array([x.z[name] for x in on])
        found = bread @ X.T @ y
        scores = (X * (y - X @ found)[:, None]).reshape(300, 4, 4).sum(1)
        error = np.sqrt(np.diag(bread @ (scores.T @ scores) @ bread))
        wanted = np.array([0.0, size * trait.label, size * trait.sex, size * trait.age])
        assert (np.abs(found - wanted) < 4.5 * error + 1e-9).all(), name


@BOTH
def test_the_label_moves_its_weights_alone(mode):
    for a, b in zip(latents(20, mode=mode), latents(20, mode=mode, label_effect=0.0), strict=True):
        for name, trait in TRAITS[mode].items():
            assert a.z[name] - b.z[name] == pytest.approx(trait.label * a.label)
        assert all(np.array_equal(a.habits[k], b.habits[k]) for k in a.habits)


@BOTH
def test_person_session_and_outliers_at_their_distance(mode):
    """The variance within a person is a chi-square of 3 degrees for each, that between persons one of 299."""
    for person, jitter in [(1.0, 0.5), (0.0, 0.7)]:
        on = latents(mode=mode, **{**NONE, "person_effect": person, "session_jitter": jitter})
        for name in TRAITS[mode]:
            x = np.array([k.z[name] for k in on]).reshape(300, 4)
            assert x.var(axis=1, ddof=1).mean() == pytest.approx(jitter**2, rel=4.5 * np.sqrt(2 / 900))
            assert x.mean(1).var(ddof=1) == pytest.approx(person**2 + jitter**2 / 4, rel=4.5 * np.sqrt(2 / 299))
    far, near = latents(30, mode=mode, outliers=4), latents(30, mode=mode)
    for a, b in zip(far, near, strict=True):
        moved = [abs(a.z[n] - b.z[n]) for n in TRAITS[mode]]
        assert moved == pytest.approx([4.0 * a.session.outlier] * len(moved))


# --- the signals carry the latents ------------------------------------------------------------------------------


def pitch(r: Recording) -> float:
    """Hz: the median over 50 ms frames of speech, every 150 ms, of the first lag whose autocorrelation is nearly the highest."""
    x, found = signal(r, "voice")[:, 0], []
    for start in range(0, len(x) - 800, 2400):
        frame = x[start : start + 800] * np.hanning(800)
        if frame.std() < 0.01:
            continue
        ac = np.fft.irfft(np.abs(np.fft.rfft(frame, 2048)) ** 2)[:800]
        ac = ac[40:230] / (1 - np.arange(40, 230) / 800) ** 2
        near = np.flatnonzero(ac > 0.85 * ac.max())[0]
        lag = 40 + near + ac[near : near + 25].argmax()
        found.append(16000 / lag)
    return float(np.median(found))


def speed(r: Recording) -> float:
    t = words(r)
    return sum(len(behaviour.syllables(x)) for x in t.text) / (t.ends_s - t.times_s).sum()


MEASURES = {
    "f0": lambda r: np.log(pitch(r)),
    "rate": speed,
    "loudness": lambda r: np.log(np.sqrt(np.mean(signal(r, "voice")[np.abs(signal(r, "voice")) > 0.005] ** 2))),
    "au04": lambda r: np.log(signal(r, "face")[:, behaviour.AUS.index("04")].mean()),
    "au12": lambda r: np.log(signal(r, "face")[:, behaviour.AUS.index("12")].mean()),
    "gaze": lambda r: np.log(signal(r, "gaze")[:, 0].std()),
}
TELLING = {"f0": 0.98, "rate": 0.8, "loudness": 0.9, "au04": 0.9, "au12": 0.9, "gaze": 0.8}


@pytest.mark.parametrize("effect", [1.0, 0.0])
def test_voice_and_face_show_the_label_at_its_size_and_not_at_none(effect):
    """Within 4 standard errors over persons of what was injected; and each measure follows its trait."""
    lives, recordings = made(16, "voice", "face", "gaze", "transcript", label_effect=effect, seconds=15.0)
    for name, measure in MEASURES.items():
        trait = life.LAB[name]
        got = np.array([measure(r) for r in recordings])
        found, error = contrast(lives, got)
        assert abs(found - effect * trait.unit * trait.label) < 4 * error, name
        if effect:
            assert found * np.sign(trait.label) > 2 * error, name
        inside = [np.log(x.value(name)) if trait.log else x.value(name) for x in lives]
        assert np.corrcoef(got, inside)[0, 1] > TELLING[name], name


@pytest.mark.parametrize("effect", [1.0, 0.0])
def test_strained_words_are_as_many_as_their_chance_says(effect):
    lives, recordings = made(40, "transcript", label_effect=effect, seconds=60.0)
    chance, n, tense = [], [], []
    for x, r in zip(lives, recordings, strict=True):
        chance.append(x.value("tense"))
        n.append(len(words(r).text))
        tense.append(sum(any(w in t.lower() for w in behaviour.TENSE) for t in words(r).text))
    p, m, k = np.array(chance), np.array(n), np.array(tense)
    for label in (False, True):
        at = np.array([x.label for x in lives]) == label
        assert abs(k[at].sum() - (p * m)[at].sum()) < 4 * np.sqrt((m * p * (1 - p))[at].sum())
    found, error = contrast(lives, k / m)
    assert (found > 4 * error) if effect else (abs(found) < 4 * error)


def test_words_are_unicode_and_in_time():
    _, recordings = made(20, "transcript", seconds=30.0)
    said = {t for r in recordings for t in words(r).text}
    assert any(ord(c) > 0x7F for t in said for c in t)
    assert len(said) > 200
    for r in recordings:
        t = words(r)
        assert set(t.speakers) == {"participant"}
        assert (t.ends_s[:-1] < t.times_s[1:]).all()
        assert t.ends_s[-1] <= 30


@pytest.mark.parametrize(
    ("text", "vowels"), [("Naïve café, ok?", [0, 1, 0, 1, 3]), ("ну 嗯", [1, 1]), ("Ærø", [0, 3]), ("…", [])]
)
def test_syllables(text, vowels):
    assert behaviour.syllables(text) == vowels


def test_the_voice_sounds_when_and_what_the_transcript_says():
    lives, recordings = made(4, "voice", "transcript", seconds=20.0)
    for r in recordings:
        t, x = words(r), signal(r, "voice")[:, 0]
        at = np.arange(len(x)) / 16000
        inside = np.zeros(len(x), bool)
        for a, b in zip(t.times_s, t.ends_s, strict=True):
            inside |= (at >= a) & (at < b + 0.02)  # a resonance rings for a moment
        assert x[inside].std() > 20 * x[~inside].std()
    v = {n: lives[0].value(n) for n in life.LAB} | {"tract": 1.0, "f0": 120.0}
    for vowel, formants in enumerate(
        behaviour.FORMANTS
    ):  # the first formant is where the power is, to a harmonic or so
        said = behaviour.Said(
            np.array([0.0]), np.array([1.0]), ("",), np.array([0.0]), np.array([1.0]), np.array([vowel])
        )
        x = behaviour.voice(said, v, 1.0, np.random.default_rng(0))
        power = np.abs(np.fft.rfft(x)) ** 2
        assert abs(np.argmax(power[:1200]) - formants[0]) < 130, vowel


# --- what hangs together ----------------------------------------------------------------------------------------


def loud(r: Recording) -> np.ndarray:
    """The voice's level in each frame of the face."""
    x = signal(r, "voice")[:, 0]
    edges = np.rint(np.arange(len(signal(r, "face")) + 1) * 16000 / 30).astype(int)
    return np.sqrt(np.add.reduceat(x**2, edges[:-1]) / np.diff(edges))


@pytest.mark.parametrize("coupling", [1.0, 0.0])
def test_lips_follow_the_voice(coupling):
    _, recordings = made(8, "voice", "face", seconds=12.0, coupling=coupling)
    for name in ("25", "26"):
        k = behaviour.AUS.index(name)
        found = np.array([np.corrcoef(loud(r), signal(r, "face")[:, k])[0, 1] for r in recordings])
        found = found.reshape(8, 4).mean(1)  # by person
        if coupling:
            assert found.min() > 0.5, name
        else:
            assert abs(found.mean()) < 4 * found.std(ddof=1) / np.sqrt(8), name


def beats(r: Recording) -> float:
    """Per minute: the strongest frequency of the pulse."""
    x = signal(r, "bvp")[:, 0]
    power = np.abs(np.fft.rfft(x - x.mean(), 8 * len(x))) ** 2
    hz = np.fft.rfftfreq(8 * len(x), 1 / 64)
    inside = (hz > 0.6) & (hz < 3.0)
    return 60 * hz[inside][power[inside].argmax()]


def mean_rate(hr: np.ndarray, x: life.Life) -> np.ndarray:
    """Beats/min of intervals 60/hr that swing by the breathing, the 0.1 Hz wave and jitter: the mean of 1/interval, to the
    second order."""
    spread = x.session.trait("rsa") ** 2 / 2 + 0.012**2 / 2 + 0.008**2
    return hr * (1 + spread * (hr / 60) ** 2)


def test_walking_raises_the_heart_rate_and_the_wrist_moves():
    """+20 beats/min times the share that is walking, within 4 standard errors over persons, for the same persons with and
    without; and the waist's sensor shows that share and cadence."""
    lives, on = made(20, "bvp", "acc", "imu_acc", seconds=60.0)
    _, off = made(20, "bvp", "acc", "imu_acc", seconds=60.0, coupling=0.0)
    share = np.array([x.value("walking") for x in lives])
    rest = np.array([x.session.trait("hr") for x in lives])
    wanted = [mean_rate(h + 20 * s, x) - mean_rate(h, x) for h, s, x in zip(rest, share, lives, strict=True)]
    extra = np.array([beats(a) - beats(b) for a, b in zip(on, off, strict=True)]) - wanted
    by_person = extra.reshape(20, 4).mean(1)
    assert abs(by_person.mean()) < 4 * by_person.std(ddof=1) / np.sqrt(20)
    for a, b, s, x in zip(on, off, share, lives, strict=True):
        assert np.array_equal(signal(a, "imu_acc"), signal(b, "imu_acc"))
        assert np.diff(signal(a, "acc"), axis=0).std() > np.diff(signal(b, "acc"), axis=0).std()
        up = signal(a, "imu_acc")[:, 1]
        moves = np.abs(up - np.median(up)) > 0.04
        smooth = np.convolve(moves, np.ones(40) / 40, "same") > 0.3
        assert abs(smooth.mean() - s) < 0.12
        power = np.abs(np.fft.rfft(up - up.mean(), 8 * len(up))) ** 2
        found = np.fft.rfftfreq(8 * len(up), 1 / 50)[power.argmax()]
        assert found == pytest.approx(x.value("cadence"), rel=0.1)


@pytest.mark.parametrize("coupling", [1.0, 0.5, 0.0])
def test_walks_and_runs_raise_the_heart_rate_of_their_minutes(coupling):
    lives, recordings = made(20, mode="days", coupling=coupling)
    sleeps, walks, runs, steps = [], [], [], []
    for x, r in zip(lives, recordings, strict=True):
        hr, log = signal(r, "hr")[:, 0], events(r, "activities")
        middle = np.arange(len(hr)) * 60.0 + 30
        hr = hr - 3 * np.cos(2 * np.pi * ((middle - 30) / sim.DAY_S - 16 / 24))  # the time of day
        doing = np.full(len(hr), 3)
        for t, d, c in zip(log.times_s, log.durations_s, log.codes, strict=True):
            doing[(middle >= t) & (middle < t + d)] = c
        level = [hr[doing == c].mean() if (doing == c).any() else np.nan for c in range(4)]
        walks.append(level[1] - level[3])
        runs.append(level[2] - level[3])
        sleeps.append(level[0] - level[3])
        expected = (log.durations_s * np.array([0, x.value("cadence"), 2.7])[log.codes]).sum()
        steps.append(signal(r, "steps").sum() / max(expected, 1))
        assert (log.times_s[:-1] + log.durations_s[:-1] <= log.times_s[1:]).all()  # one thing at a time
    assert np.allclose(steps, 1, atol=0.01)
    for found, size in ((sleeps, -8), (walks, 25 * coupling), (runs, 60 * coupling)):
        by_person = np.array([x[np.isfinite(x)].mean() for x in np.reshape(found, (20, 4)) if np.isfinite(x).any()])
        assert len(by_person) > 15  # the others never ran
        assert abs(by_person.mean() - size) < 4 * by_person.std(ddof=1) / np.sqrt(len(by_person))


@pytest.mark.parametrize("effect", [1.0, 0.0])
def test_calls_and_night_calls_are_as_many_as_their_traits_say(effect):
    """Poisson and binomial: within 4 of their own standard deviations, in each class; and the classes differ, or not."""
    lives, recordings = made(60, mode="days", label_effect=effect)
    label = np.array([x.label for x in lives])
    count = np.array([len(events(r, "calls").times_s) for r in recordings])
    night = np.array([(events(r, "calls").times_s % sim.DAY_S < 6 * 3600).sum() for r in recordings])
    missed = np.array([(events(r, "calls").codes == 2).sum() for r in recordings])
    expected = 7 * np.array([x.value("calls") for x in lives])
    for at in (label, ~label):
        assert abs(count[at].sum() - expected[at].sum()) < 4 * np.sqrt(expected[at].sum())
        for name, found in (("night", night), ("missed", missed)):
            p = np.array([x.value(name) for x in lives])[at]
            n = count[at]
            assert abs(found[at].sum() - (n * p).sum()) < 4 * np.sqrt((n * p * (1 - p)).sum()), name
    others = {
        "messages": [len(events(r, "messages").times_s) for r in recordings],
        "walks": [(events(r, "activities").codes == 1).sum() for r in recordings],
        "runs": [(events(r, "activities").codes == 2).sum() for r in recordings],
    }
    for name, found in others.items():
        wanted = 7 * np.array([x.value(name) for x in lives])
        for at in (label, ~label):
            assert abs(np.array(found)[at].sum() - wanted[at].sum()) < 4 * np.sqrt(wanted[at].sum()), name
    for values, sign in ((count, -1), (night / np.maximum(count, 1), 1)):
        found, error = contrast(lives, values)
        assert (sign * found > 4 * error) if effect else (abs(found) < 4 * error)
    for r in recordings:
        log = events(r, "calls")
        assert (log.durations_s[log.codes == 2] == 0).all()
        assert (log.durations_s[log.codes != 2] > 0).all()


# --- who it is --------------------------------------------------------------------------------------------------


def recognised(vectors: np.ndarray) -> float:
    """The share of recordings whose nearest other recording is of the same person (4 each, in order)."""
    d = ((vectors[:, None] - vectors) ** 2).sum(-1)
    np.fill_diagonal(d, np.inf)
    return float((d.argmin(1) // 4 == np.arange(len(vectors)) // 4).mean())


def habits_of(r: Recording) -> np.ndarray:
    said = " ".join(words(r).text).lower()
    found = np.array([said.count(w.lower()) for w in (*behaviour.FILLERS, *behaviour.TOPICS)], float)
    return found / found.sum()


def contacts_of(r: Recording) -> np.ndarray:
    log = events(r, "messages")
    return np.bincount(log.party, minlength=12) / max(1, len(log.times_s))


@pytest.mark.parametrize(
    ("streams", "options", "vector"),
    [
        (("voice",), {"seconds": 10.0}, lambda r: np.array([np.log(pitch(r))])),
        (("transcript",), {"seconds": 60.0}, habits_of),
        (("messages",), {"mode": "days"}, contacts_of),
        (("face",), {"seconds": 20.0}, lambda r: np.log(signal(r, "face").mean(0))),
    ],
    ids=["pitch", "words", "contacts", "face"],
)
def test_persons_are_told_apart_only_while_there_is_a_person_effect(streams, options, vector):
    """Chance is 3 of the 79 others; at person_effect 0 (no sex, no age, no label) no more than that, by 4 binomial
    deviations with the 80 recordings counted as 20, since nearest neighbours come in pairs and persons."""
    chance = 3 / 79
    bound = chance + 4 * np.sqrt(chance * (1 - chance) / 20)
    alike = {"sex_effect": 0.0, "age_effect": 0.0, "label_effect": 0.0}
    for effect in (2.0, 0.0):
        _, recordings = made(20, *streams, person_effect=effect, session_jitter=0.2, **alike, **options)
        share = recognised(np.array([vector(r) for r in recordings]))
        assert (share > bound) if effect else (share < bound)
