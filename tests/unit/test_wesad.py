"""WESAD's official layout, invented: three persons of a few seconds, planted numbers, and the traps of real copies."""

import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mien.core.errors import MienError
from mien.data import pickles
from mien.data.datasets import wesad

# (label, seconds): a transition, the four conditions, a piece too short, and codes that mean nothing
COURSE = ((0, 6), (1, 20), (0, 2), (2, 12), (3, 9), (4, 8), (7, 3), (1, 2))
README = """### Personal information ###
Age: {age}
Height (cm): 175
Weight (kg): 70
Gender: {sex}
Dominant hand: right

### Study pre-requisites ###
Did you drink coffee today? YES
Do you smoke? NO

### Additional notes ###
none
"""


def person(folder: Path, number: int, *, label=None, wrist=None, name=None, readme=True) -> Path:
    """S<number>/S<number>.pkl as Python 2 wrote it (protocol 2), and its readme."""
    seconds = sum(s for _, s in COURSE)
    if label is None:
        label = np.concatenate([np.full(int(700 * s), code, np.int32) for code, s in COURSE])
    n = len(label)
    at = {32: np.arange(32 * seconds), 64: np.arange(64 * seconds), 4: np.arange(4 * seconds)}
    made = {
        "ACC": np.tile(at[32][:, None] % 64, (1, 3)).astype(np.int8),
        "BVP": (100.0 * number + at[64] / 64)[:, None],  # the second stands in the sample
        "EDA": (number + at[4] / 4 / 100)[:, None],
        "TEMP": np.full((4 * seconds, 1), 33.0),
    }
    chest = {k: np.full((n, 1), float(number), np.float32) for k in ("ECG", "EMG", "EDA", "Temp", "Resp")}
    chest["ACC"] = np.zeros((n, 3))
    data = {
        "signal": {"chest": chest, "wrist": made if wrist is None else wrist(made)},
        "label": label,
        "subject": f"S{number}",
    }
    home = folder / f"S{number}"
    home.mkdir(parents=True, exist_ok=True)
    file = home / f"{name or f'S{number}'}.pkl"
    file.write_bytes(pickle.dumps(data, protocol=2))
    if readme:
        (home / f"S{number}_readme.txt").write_text(
            README.format(age=20 + number, sex="female" if number % 2 else "male")
        )
    return file


@pytest.fixture
def copy(home):
    for number in (2, 3, 10):
        person(home / "WESAD", number)
    return home / "WESAD"


def read(root, **options):
    return wesad.load(wesad.Config(root=str(root), **options))


def test_the_layout_is_read_and_the_numbers_stay_with_their_moment(copy, capsys):
    cohort = read(copy)
    assert cohort.persons == ["wesad-S10", "wesad-S2", "wesad-S3"]
    assert [r.labels["affect"] for r in cohort][:4] == ["baseline", "stress", "amusement", "meditation"]
    first, stress, fun, rest = list(cohort)[:4]
    assert (first.person, first.start_s, first.seconds) == ("wesad-S2", 6.0, 20.0)
    assert [dict(r.labels).get("stress") for r in (first, stress, fun, rest)] == ["no", "yes", "no", None]
    bvp = stress.streams["bvp"].values[:, 0]
    assert bvp[0] == pytest.approx(200 + 28.0, abs=1 / 64)  # second 28 of S2
    assert bvp[-1] == pytest.approx(200 + 40.0, abs=2 / 64)
    assert stress.streams["eda"].values[0, 0] == pytest.approx(2 + 0.28, abs=0.003)
    assert first.streams["acc"].values.max() == pytest.approx(63 / 64)  # sixty-fourths of g
    assert (first.streams["acc"].rate_hz, first.streams["acc"].unit) == (32.0, "g")
    assert dict(first.attributes) == {
        "age": 22.0, "sex": "male", "height_cm": 175.0, "weight_kg": 70.0, "dominant_hand": "right", "smoker": "no",
    }  # fmt: skip
    assert "non-commercial" in cohort.card.licence
    said = capsys.readouterr().out
    assert "33 s without a defined condition" in said  # 3 x (6 + 2 + 3)
    assert "6 s in pieces under 5 s" in said
    kept, _ = cohort.for_purpose("training")
    assert len(kept) == 12


def test_chest_and_both(copy):
    chest, both = read(copy, device="chest"), read(copy, device="both")
    assert set(chest[0].streams) == {"chest_acc", "ecg", "emg", "chest_eda", "chest_temp", "resp"}
    assert chest[0].streams["chest_temp"].values.shape == (14000, 1)
    assert len(both[0].streams) == 10


def test_it_is_read_once_and_again_when_a_file_changes(copy, monkeypatch):
    first = read(copy).fingerprint
    monkeypatch.setattr(wesad.pickles, "read_npy_dict", lambda *_, **__: pytest.fail("read again"))
    assert read(copy).fingerprint == first
    monkeypatch.undo()
    (copy / "S2" / "S2_readme.txt").write_text("Age: 77\n")
    assert read(copy)[0].attributes["age"] == 77.0


def test_a_nested_copy_and_one_without_readmes_are_read(home):
    person(home / "download" / "WESAD", 4, readme=False)
    cohort = read(home / "download")
    assert cohort.persons == ["wesad-S4"]
    assert dict(cohort[0].attributes) == {}


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sets(st.sampled_from([f"S{n}/S{n}{what}" for n in (2, 3, 10) for what in (".pkl", "_readme.txt")])))
def test_missing_files_make_a_smaller_cohort_or_a_named_error(copy, tmp_path_factory, gone):
    root = tmp_path_factory.mktemp("wesad") / "WESAD"
    shutil.copytree(copy, root)
    for name in gone:
        (root / name).unlink()
    left = {f"wesad-S{n}" for n in (2, 3, 10) if f"S{n}/S{n}.pkl" not in gone}
    if not left:
        with pytest.raises(MienError, match=r"holds no S2/S2.pkl"):
            read(root)
        return
    cohort = read(root)
    assert set(cohort.persons) == left
    for r in cohort:
        n = r.person.removeprefix("wesad-S")
        assert bool(r.attributes) == (f"S{n}/S{n}_readme.txt" not in gone)


class Evil:
    def __reduce__(self):
        return (print, ("this must not run",))


def twice(root):
    person(root / "WESAD" / "copy", 2)


def link(root):
    outside = person(root / "elsewhere", 5)
    (root / "WESAD" / "S5").mkdir()
    (root / "WESAD" / "S5" / "S5.pkl").symlink_to(outside)


def readme_link(root):
    (root / "secret.txt").write_text("Age: 40\n")
    file = root / "WESAD" / "S3" / "S3_readme.txt"
    file.unlink()
    file.symlink_to(root / "secret.txt")


def truncated(root):
    file = root / "WESAD" / "S3" / "S3.pkl"
    file.write_bytes(file.read_bytes()[:5000])


def hostile(root):
    (root / "WESAD" / "S3" / "S3.pkl").write_bytes(pickle.dumps({"label": Evil()}))


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda root: shutil.rmtree(root / "WESAD"), "no such folder"),
        (lambda root: [shutil.rmtree(root / "WESAD" / f"S{n}") for n in (2, 3, 10)], "is it WESAD's folder"),
        (twice, "S2 is there twice"),
        (link, "is a link out of"),
        (readme_link, "is a link out of"),
        (truncated, "S3.pkl: truncated or damaged"),
        (hostile, "S3.pkl: refused, and nothing in it was run"),
        (lambda root: person(root / "WESAD", 3, wrist=lambda w: {k: v for k, v in w.items() if k != "EDA"}), "no 'signal/wrist/EDA'"),
        (lambda root: person(root / "WESAD", 3, wrist=lambda w: w | {"BVP": w["BVP"][:-640]}), "not about 3968 x 1"),
        (lambda root: person(root / "WESAD", 3, wrist=lambda w: w | {"ACC": w["ACC"][:, :2]}), "not about 1984 x 3"),
        (lambda root: shutil.copy(root / "WESAD" / "S2" / "S2.pkl", root / "WESAD" / "S3" / "S3.pkl"), "says it is of S2"),
        (lambda root: (root / "WESAD" / "S3" / "S3.pkl").write_bytes(b""), "S3.pkl: truncated or damaged"),
    ],
)  # fmt: skip
def test_traps_are_refused_by_name(copy, home, spoil, says, capfd):
    spoil(home)
    with pytest.raises(MienError, match=says) as error:
        read(copy)
    assert "\n" not in str(error.value)
    assert "this must not run" not in capfd.readouterr().out


def test_gaps_are_marked_and_not_filled(home):
    def gap(w):
        w["TEMP"][30:34] = np.nan
        return w

    person(home / "WESAD", 2, wrist=gap)
    first = read(home / "WESAD")[0]
    assert (~first.streams["temp"].valid).sum() == 4
    assert first.streams["bvp"].valid is None


def test_only_the_asked_keys_leave_the_child(copy):
    found = pickles.read_npy_dict(copy / "S2" / "S2.pkl", keys=("label", "signal/wrist/EDA", "nowhere"))
    assert set(found) == {"label", "signal/wrist/EDA"}
    assert "signal/chest/Temp" in pickles.read_npy_dict(copy / "S2" / "S2.pkl")
