"""A person's own adapter: what it learns from, what it leaves alone, where it is kept, and that it goes."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from mien import cli
from mien.adapters import personal, represented
from mien.adapters.personal import Personalise
from mien.core.errors import MienError
from mien.core.plugins import ROOT

from .test_representation import made_of, people  # noqa: F401 - a fixture

OPTIONS = Personalise(per_class=2, steps=10)


@pytest.fixture
def fitted(people, home):  # noqa: F811
    made, windows = made_of(people, bind="none")
    windows.start_s = windows.start_s + 100.0 * np.array([int(windows.recordings[r][-1]) for r in windows.recording])
    rows, rest = personal.first(windows, "p01", "activity", 2)
    return made, windows, rows, rest


def test_the_first_windows_in_time_and_what_comes_after(fitted):
    _, windows, rows, rest = fitted
    y = windows.labels["activity"]
    assert sorted(y[rows].tolist()) == [0, 0, 1, 1]
    assert windows.start_s[rest].min() > windows.start_s[rows].max()
    mine = windows.person == windows.persons.index("p01")
    for c in (0, 1):  # no earlier window of a class was passed over
        assert windows.start_s[rows[y[rows] == c]].max() <= np.sort(windows.start_s[mine & (y == c)])[1]


def test_it_learns_and_the_shared_adapter_does_not_move(fitted):
    made, windows, rows, _ = fitted
    before = {n: p.clone() for n, p in made.model.named_parameters()}
    Z = represented.vectors(made, windows)
    start = float(made.losses(made.model, made.batch(windows, rows)).mean())
    mine = personal.fit(made, windows, rows, OPTIONS)
    assert float(mine.losses(mine.model, mine.batch(windows, rows)).mean()) < start
    assert not np.allclose(represented.vectors(mine, windows), Z, atol=1e-3)
    personal.drop(made)
    assert np.array_equal(represented.vectors(made, windows), Z)
    assert all((p == before[n]).all() for n, p in made.model.named_parameters())


def test_what_is_kept_comes_back_and_is_forgotten(fitted):
    made, windows, rows, _ = fitted
    mine = personal.fit(made, windows, rows, OPTIONS)
    want = represented.vectors(mine, windows)
    place = personal.save(mine, "p01", "a" * 64)
    assert place.stat().st_mode & 0o077 == 0
    assert "p01" not in str(place)
    personal.drop(made)
    back = personal.load(made, "p01", "a" * 64)
    assert np.allclose(represented.vectors(back, windows), want, atol=1e-6)
    assert (back.heads["activity"].weight == mine.heads["activity"].weight).all()
    personal.drop(made)
    with pytest.raises(MienError, match="no personal adapter"):
        personal.load(made, "p02", "a" * 64)
    for left in (".partial", ".old"):  # by a process that was killed while it saved
        shutil.copytree(place, place.with_name(f".{place.name}.1{left}"))
    assert personal.forget("p01") == 1
    assert not list(place.parent.iterdir())
    assert personal.forget("p01") == 0


def test_an_adapter_that_was_judged_is_kept_where_its_person_agreed_and_one_command_forgets_it(fitted, capsys):
    made, windows, rows, _ = fitted
    one = windows.persons[int(windows.person[rows[0]])]
    for agreed, kept in (((), 0), ((one,), 1)):
        personal.predicted(made, windows, rows, rows[:1], "activity", OPTIONS, keep=("d" * 64, agreed))
        assert len(list(personal.store().glob("*/*"))) == kept
    assert personal.NAME not in made.model.peft_config
    alone = personal.probabilities(personal.fit(made, windows, rows, OPTIONS), windows, rows[:1], "activity")
    personal.drop(made)
    back = personal.probabilities(personal.load(made, one, "d" * 64), windows, rows[:1], "activity")
    assert back == pytest.approx(alone, abs=1e-6)
    personal.drop(made)
    assert cli.main(["data", "forget", one]) == 0
    assert "1 personal adapter deleted" in capsys.readouterr().out
    assert not list(personal.store().glob("*/*"))


def test_forgetting_makes_no_store(home, tmp_path, monkeypatch):
    monkeypatch.setenv("MIEN_RUNS", str(tmp_path / "none"))
    assert personal.forget("p01") == 0
    assert not (tmp_path / "none").exists()


def test_a_file_that_lacks_layers_is_not_taken_for_whole(fitted):
    from safetensors.torch import load_file, save_file

    made, windows, rows, _ = fitted
    place = personal.save(personal.fit(made, windows, rows, OPTIONS), "p01", "c" * 64) / "personal.safetensors"
    personal.drop(made)
    tensors = load_file(place)
    del tensors[next(k for k in tensors if "lora_B" in k)]
    save_file(tensors, place)
    with pytest.raises(MienError, match="fit it again"):
        personal.load(made, "p01", "c" * 64)
    assert personal.NAME not in made.model.peft_config


def test_it_is_never_shared(fitted, tmp_path):
    made, windows, rows, _ = fitted
    place = personal.save(personal.fit(made, windows, rows, OPTIONS), "p01", "b" * 64)
    with pytest.raises(MienError, match="one person's data"):
        personal.refuse_to_share(place.parent)
    represented.save(made, tmp_path / "adapter", seconds=4.0, chosen={m: m for m in made.modalities})
    personal.refuse_to_share(tmp_path / "adapter")
    from safetensors.torch import load_file

    kept = load_file(
        tmp_path / "adapter" / "adapter_model.safetensors"
    )  # the shared one alone, with a personal one on top
    assert not [k for k in kept if "personal" in k]
    assert (ROOT / "adapters" / "personal.py").is_file()


@pytest.mark.parametrize(
    ("person", "per_class", "says"),
    [("p99", 1, "no window here"), ("p01", 50, "lower per_class"), ("p01", 6, "comes after|lower per_class")],
)
def test_persons_who_cannot_be_personalised(fitted, person, per_class, says):
    with pytest.raises(MienError, match=says):
        personal.first(fitted[1], person, "activity", per_class)


def test_two_persons_do_not_share_one(fitted):
    made, windows, _, _ = fitted
    with pytest.raises(MienError, match="one person"):
        personal.fit(made, windows, [0, len(windows) - 1], OPTIONS)
