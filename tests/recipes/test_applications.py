"""The five applications on invented copies of their databases, in the official layouts that the readers' tests write."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from datetime import timedelta
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import yaml

from mien.core import config, plugins
from mien.core.config import Plugin
from mien.core.results import Report

from ..unit import test_coswara as coswara
from ..unit import test_daic_woz as daic
from ..unit import test_globem as globem
from ..unit import test_speech_sets as speech
from ..unit import test_studentlife as studentlife
from ..unit import test_wesad as wesad
from .conftest import Lab

RECIPES = Path(__file__).resolve().parents[2] / "recipes"
STUDIES = ("stress", "depression", "covid", "affect", "mood")


def wesad_copy(root: Path) -> Path:
    """Six persons whose pulse is faster and whose skin conducts more under stress."""
    course = ((1, 32), (0, 2), (2, 32), (3, 16), (4, 8))
    label = np.concatenate([np.full(int(700 * s), code, np.int32) for code, s in course])
    seconds = sum(s for _, s in course)
    rng = np.random.default_rng(0)

    def wrist(_: object) -> dict[str, np.ndarray]:
        at = {hz: np.arange(hz * seconds) / hz for hz in (4, 32, 64)}
        tense = {hz: np.repeat([code == 2 for code, _ in course], [hz * s for _, s in course]) for hz in at}
        beat = np.cumsum(1.1 + 0.5 * tense[64] + 0.05 * rng.normal()) / 64
        pulse = 60 * np.exp(-(((beat % 1) - 0.3) ** 2) / 0.01) + rng.normal(size=len(beat))
        still = 64 * np.array([0, 0, 1]) + (2 + 4 * tense[32])[:, None] * rng.normal(size=(32 * seconds, 3))
        return {
            "BVP": pulse[:, None], "ACC": still.clip(-120, 120).astype(np.int8),
            "EDA": (2 + 3 * tense[4] + 0.05 * rng.normal(size=4 * seconds).cumsum()).clip(0.1, 39)[:, None],
            "TEMP": (33 + 0.01 * rng.normal(size=4 * seconds).cumsum())[:, None],
        }  # fmt: skip

    for number in range(2, 8):
        wesad.person(root / "WESAD", number, label=label, wrist=wrist)
    return root / "WESAD"


def globem_copy(root: Path) -> Path:
    """Ten students with two answers, a fortnight apart; in the days before "low" they call less."""
    folder, people = root / "globem" / "INS-W_2", [f"INS-W_{300 + i}" for i in range(10)]
    low = {(p, k): (i + k) % 2 == 0 for i, p in enumerate(people) for k in (0, 1)}
    labels = {p: [(globem.FIRST + timedelta(days=14 * (k + 1)), str(low[p, k])) for k in (0, 1)] for p in people}
    rng = np.random.default_rng(0)

    def change(person: str, i: int, row: dict[str, str]) -> dict[str, str]:
        if rng.random() < 0.1:
            return {}
        n = float(rng.poisson(2 if low[person, min(i // 14, 1)] else 8))
        of = {"count": n, "distinctcontacts": min(n, 3.0), "sumduration": 60 * n, "entropyduration": 0.5}
        both = {f"{way}_{k}": str(v) for way in ("incoming", "outgoing") for k, v in of.items()}
        return both | {"missed_count": "1.0", "missed_distinctcontacts": "1.0"}

    globem.features_of(folder / "FeatureData" / "call.csv", change, people=people)
    globem.labels_of(folder, labels)
    return root / "globem"


def studentlife_copy(root: Path) -> Path:
    """Six students with twelve answers; who is stressed has written more in the hours before."""
    base, rng = root / "dataset", np.random.default_rng(0)
    for n in range(6):
        u, answers, messages, moves, talk = f"u0{n}", [], [], {}, []
        for k in range(12):
            hour, stressed = 12.0 + 12 * k, (n + k) % 2 == 0
            answers.append(studentlife.answer(hour, "2" if stressed else "4"))
            for _ in range(3 + 5 * stressed):
                messages.append(
                    studentlife.message(hour - rng.uniform(0.3, 5.5), 1 + int(rng.integers(2)), "AB"[k % 2])
                )
            talk.append((hour - 3, hour - 2.5))
            moves |= {round(hour - 5.9 + j / 6, 3): "01" if j % 3 else "0" for j in range(35)}
        calls = [studentlife.call(3 + 5 * j, 1 + j % 2, "A", 60, n=j) for j in range(28)]
        studentlife.log(base / "call_log" / f"call_log_{u}.csv", studentlife.CALLS, [*calls, studentlife.poll(200)])
        studentlife.log(
            base / "sms" / f"sms_{u}.csv",
            studentlife.MESSAGES,
            [studentlife.poll(0.1), *messages, studentlife.poll(200)],
        )
        studentlife.spans(base, "conversation", u, [(0.1, 0.2), *talk, (190, 190.1)])
        studentlife.activity(base, u, moves)
        studentlife.stress(base, u, answers)
    studentlife.survey(base, [(f"u0{n}", "post", [n % 3] * 9) for n in range(6)])
    return base


def coswara_copy(root: Path) -> Path:
    """Twelve persons over a year; a cough is a burst whose pitch is higher in the sick."""
    base, rows = root / "Coswara-Data", {}
    for n in range(12):
        sick = n % 2 == 1
        day = f"2020{4 + n // 2:02d}1{n % 2}"
        name, status = f"person{n:02d}", "positive_mild" if sick else "healthy"
        rows[name] = (day, f"{30 + n},{status},{day[:4]}-{day[4:6]}-{day[6:]},y,female,India,,Kerala,n,,,,,")
        file = base / "Extracted_data" / day / name / "cough-heavy.wav"
        speech.tone(file, 900 if sick else 400, 48000, 4.5)
    coswara.write_table(base, rows)
    return base


def crema_copy(root: Path) -> Path:
    """Six actors, six emotions, each at a pitch of its own."""
    base = root / "CREMA-D"
    for actor in range(1001, 1007):
        for i, emotion in enumerate(("ANG", "DIS", "FEA", "HAP", "NEU", "SAD")):
            file = base / "AudioWAV" / f"{actor}_IEO_{emotion}_XX.wav"
            speech.tone(file, 200 * 1.5**i + actor % 7, 16000, 2.5)
    lines = [f'{a},{20 + a % 50},"{"Female" if a % 2 else "Male"}","Unknown","Not Hispanic"' for a in range(1001, 1007)]
    (base / "VideoDemographics.csv").write_text("\n".join(['"ActorID","Age","Sex","Race","Ethnicity"', *lines]) + "\n")
    return base


COPIES: dict[str, tuple[Callable[[Path], Path], list[str]]] = {
    "stress": (wesad_copy, ["seconds=8", "stride_s=8"]),
    "depression": (globem_copy, ["seconds=1209600", "stride_s=1209600", "cohort.days=14"]),
    "covid": (coswara_copy, []),
    "affect": (crema_copy, []),
    "mood": (studentlife_copy, []),
}  # study -> (its invented copy, what is smaller in it)


@pytest.mark.parametrize("study", STUDIES)
def test_every_part_of_every_recipe_is_known(study):
    """To the files of its plug-ins, not only to the verb: their own keys too."""
    found = sorted((RECIPES / study).glob("*.yaml"))
    assert {f.stem for f in found} >= {
        "adapt",
        "attack",
        "baseline",
        "evaluate",
        "generate",
        "represent",
        "adapt_private",
    }
    for file in found:
        verb = file.stem.partition("_")[0].replace("represent", "adapt")
        recipe = config.load(file, getattr(import_module(f"mien.recipes.{verb}"), verb.capitalize()))
        assert recipe.study.split("_")[0] == study
        assert (getattr(recipe, "privacy", None) is not None) == file.stem.endswith("_private")
        for kind, sections in {
            "data/datasets": [getattr(recipe, "cohort", None)],
            "generation/codecs": [getattr(recipe, "codec", None), *getattr(recipe, "codecs", ())],
            "backbones": [getattr(recipe, "backbone", None)],
            "evaluation/utility": getattr(recipe, "utility", ()),
            "evaluation/fidelity": getattr(recipe, "fidelity", ()),
        }.items():
            for section in sections:
                if section is not None:
                    options = {k: v for k, v in section.options.items() if k != "streams"}
                    plugins.resolve(kind, Plugin(name=section.name, **options))
        if getattr(recipe, "backbone", None) is not None and "recipe" in recipe.backbone.options:
            assert (RECIPES.parent / recipe.backbone.options["recipe"]).is_file()


def measured(lab: Lab, verb: str) -> dict[str, float | None]:
    (run,) = (lab.folder / "runs").glob(f"{verb}-*")
    assert (run / "release" / "report.html").is_file()
    return {r.metric: r.value for r in Report.read(run / "release" / "report.json").results}


SMALL = ["trees=20", "seeds=1"]


def some(*default: str) -> list:
    """All studies, of which these are not slow: whole loops take a minute each, and the readers of all have tests of their own."""
    return [s if s in default else pytest.param(s, marks=pytest.mark.slow) for s in COPIES]


@pytest.mark.parametrize("study", some("stress", "covid"))
def test_the_bar_of_a_study_in_one_command(study, tmp_path):
    make, options = COPIES[study]
    lab = Lab(tmp_path)
    folds = ["folds=4"] if study in ("depression", "affect") else []
    lab.run("baseline", f"recipes/{study}/baseline.yaml", f"cohort.root={make(tmp_path)}", *options, *folds, *SMALL)
    found = measured(lab, "baseline")
    assert found["random forest macro-F1"] > 0.8  # the planted signal
    assert ("random forest macro-F1, matched persons" in found) == (study == "covid")
    (run,) = (tmp_path / "runs").glob("baseline-*")
    report = Report.read(run / "release" / "report.json")
    assert {b.name for b in report.results[0].baselines} == {
        "logistic regression", "majority", "attributes only", "metadata only", "private, ε = 1", "private, ε = 10",
    }  # fmt: skip
    assert sum("differential privacy for each person" in c for c in report.caveats) == 2
    assert any("not drawn at random" in c for c in report.caveats) == (study == "covid")


def interviews_copy(root: Path) -> Path:
    """Twelve sessions, four on each side; AU02 is as high as the session's number."""
    base = root / "DAIC-WOZ"
    for i in range(12):
        daic.aus(base, 302 + 15 * i, seconds=20)
        daic.turns(base, 302 + 15 * i, daic.OTHER)
    for part, name in enumerate((daic.TRAIN, daic.DEV, daic.TEST)):
        rows = [f"{302 + 15 * i},{int(i >= 6)},{2 * i},{i % 2},0" for i in range(part, 12, 3)]
        (base / name).write_text("\n".join([daic.HEAD, *rows]) + "\n")
    return base


def test_the_bar_of_interviews_by_class_and_by_score(tmp_path):
    base, lab = interviews_copy(tmp_path), Lab(tmp_path)
    small = [f"cohort.root={base}", "cohort.streams=[face]", "seconds=10", "stride_s=10", "valid=0.3", *SMALL]
    chained(
        lab,
        ["baseline", "recipes/depression/baseline_interviews.yaml", *small],
        ["baseline", "recipes/depression/baseline_phq8.yaml", *small],
    )
    of = {r.study: r for p in tmp_path.glob("runs/baseline-*/release/report.json") for r in [Report.read(p)]}
    assert {r.metric for r in of["depression_interviews"].results} >= {"random forest macro-F1", "random forest AUROC"}
    score = {r.metric: r for r in of["depression_phq8"].results}
    assert score["random forest MAE"].value < 4  # the planted effect
    assert score["mean − random forest MAE"].value > 0
    assert score["random forest CCC"].n_persons == 4
    assert {r.unit for r in score.values()} == {"recording"}


def chained(lab: Lab, *calls: list[str]) -> None:
    """Verbs one after the other."""
    for call in calls:
        lab.run(*call)


@pytest.mark.parametrize("study", some("depression", "covid"))
def test_an_application_from_end_to_end(study, tmp_path):
    """Every recipe of the study as shipped, but for the copy, a base of a few steps and few samples."""
    make, options = COPIES[study]
    lab, root = Lab(tmp_path), make(tmp_path)
    base = yaml.safe_load((RECIPES / study / "adapt.yaml").read_text())["backbone"]["recipe"]
    small = {
        "extends": str(RECIPES.parent / base), "study": f"{study}-base",
        "shape": {"hidden": 32, "layers": 2, "heads": 2, "feed_forward": 64}, "train": {"max_steps": 4, "threads": 1},
        "cohort": {"persons": 6},
    }  # fmt: skip
    if study in ("covid", "affect"):
        small["cohort"] |= {"seconds": 10}
    if study == "stress":
        small["seconds"] = small["stride_s"] = 8
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(small))
    given = [f"cohort.root={root}", "backbone.recipe=base.yaml", "train.threads=1", *options]
    given += ["split.holdout=3"] if study == "stress" else []
    chained(
        lab,
        ["pretrain", "base.yaml"],
        ["adapt", f"recipes/{study}/adapt.yaml", "train.max_steps=20", *given],
        ["adapt", f"recipes/{study}/adapt_private.yaml", "train.max_steps=2", "privacy.batch=2", "privacy.rows=4", *given],
        ["generate", f"recipes/{study}/generate.yaml", "sampling.per_label=8", "sampling.batch=16"],
        ["attack", f"recipes/{study}/attack.yaml", "profile=quick"],
        ["evaluate", f"recipes/{study}/evaluate.yaml"],
    )  # fmt: skip
    found = measured(lab, "evaluate")
    assert found["TSTR accuracy"] is not None
    assert ("TSTR accuracy, matched persons" in found) == (study == "covid")
    assert measured(lab, "attack")
    (private,) = (tmp_path / "runs").glob(f"adapt-{study}_private-*")
    guarantee = Report.read(private / "release" / "report.json").guarantee or ""
    assert "differential privacy for each person" in guarantee
    shutil.rmtree(tmp_path / "runs")


@pytest.mark.parametrize("study", some("stress"))
def test_an_application_represented(study, tmp_path):
    """Towers, an adapter, a private twin and their worth, as shipped, but for the copy and the number of steps."""
    make, options = COPIES[study]
    lab, root = Lab(tmp_path), make(tmp_path)
    small = {
        "extends": str(RECIPES / study / "pretrain_represent.yaml"), "study": f"{study}-base", "cohort": {"persons": 6},
        "represent": {"width": 16, "layers": 1, "heads": 2, "dim": 8}, "train": {"max_steps": 4, "threads": 1, "batch": 8},
    }  # fmt: skip
    if study in ("covid", "affect"):
        small["cohort"] |= {"seconds": 10}
    if study == "stress":
        small["seconds"] = small["stride_s"] = 8
    if study == "depression":
        small["seconds"] = small["stride_s"] = 1209600
        small["cohort"] |= {"hours": 336}
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(small))
    given = [
        f"cohort.root={root}", "backbone.recipe=base.yaml", "train.max_steps=6", "train.batch=8", "train.threads=1", *options,
        *(["split.holdout=3"] if study == "stress" else []),
    ]  # fmt: skip
    private = ["study=twin", "privacy={epsilon: 8, batch: 2, rows: 4}", "train.max_steps=2"]
    chained(
        lab,
        ["pretrain", "base.yaml"],
        ["adapt", f"recipes/{study}/represent.yaml", *given],
        *([["adapt", f"recipes/{study}/represent.yaml", *given, *private]] if study != "covid" else []),
        ["evaluate", f"recipes/{study}/evaluate_represent.yaml"],
    )
    found = measured(lab, "evaluate")
    assert found["adapted macro-F1"] is not None
    assert ("adapted macro-F1, matched persons" in found) == (study == "covid")


@pytest.mark.parametrize("study", ["affect", pytest.param("covid", marks=pytest.mark.slow)])
def test_a_voice_by_a_speaker_encoder(study, tmp_path):
    """As shipped, but for the copy, random weights and the number of steps; of Coswara's sounds the copy has a cough."""
    lab, root = Lab(tmp_path), COPIES[study][0](tmp_path)
    given = [f"cohort.root={root}", "backbone.model=tiny", "train.max_steps=4", "train.batch=8", "train.threads=1"]
    if study == "covid":
        given += ["streams=[cough_heavy]", "represent.streams={cough_heavy: audio}"]
    chained(
        lab,
        ["adapt", f"recipes/{study}/represent_voice.yaml", *given],
        ["evaluate", f"recipes/{study}/evaluate_represent_voice.yaml"],
    )
    assert measured(lab, "evaluate")["adapted macro-F1"] is not None


def test_acted_faces_on_a_picture_tower(tmp_path):
    """As shipped, but for invented films (which grow brighter with the emotion's number), random weights and few steps."""
    av = pytest.importorskip("av", reason="needs mien[film]")
    root, rng = tmp_path / "RAVDESS", np.random.default_rng(0)
    for actor in range(1, 7):
        for emotion in range(1, 9):
            file = root / f"Actor_{actor:02d}" / f"02-01-{emotion:02d}-01-01-01-{actor:02d}.mp4"
            file.parent.mkdir(parents=True, exist_ok=True)
            with av.open(str(file), "w", format="mp4") as container:
                stream = container.add_stream("mpeg4", rate=4)
                stream.width = stream.height = 64
                stream.pix_fmt = "yuv420p"
                for _ in range(14):
                    picture = rng.integers(25 * emotion, 25 * emotion + 40, (64, 64, 3), dtype=np.uint8)
                    container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
                container.mux(stream.encode())
    lab = Lab(tmp_path)
    given = [f"cohort.root={root}", "backbone.model=tiny", "train.max_steps=4", "train.batch=8", "train.threads=1"]
    chained(
        lab,
        ["adapt", "recipes/affect/represent_film.yaml", *given],
        ["evaluate", "recipes/affect/evaluate_represent_film.yaml"],
    )
    (run,) = (tmp_path / "runs").glob("evaluate-*")
    (found,) = (r for r in Report.read(run / "release" / "report.json").results if r.metric == "adapted macro-F1")
    beside = {b.name: b.value for b in found.baselines}
    assert found.value is not None
    assert beside["classical (forest)"] > 0.8  # what was planted shows in the brightness of cells


def test_a_derived_table_to_the_bar_in_one_command(tmp_path):
    """Six persons at 1 Hz, as one long csv: one left out at a time, intervals, private rows at ε = 1 and 10."""
    root, rng = tmp_path / "wesad-1hz", np.random.default_rng(0)
    root.mkdir()
    (root / "cohort.yaml").write_text(
        "name: derived\nlicence: invented\nconsent: {basis: invented, purposes: [training, evaluation]}\n"
        'tasks: {stress: ["no", "yes"]}\ntable: all.csv\n'
        "streams:\n  eda: {channels: [EDA], unit: scaled, rate_hz: 1, range: [0, 1]}\n"
    )
    rows = ["recording,person,stress,EDA"]
    for p in range(6):
        for k, stress in enumerate(("no", "yes", "no")):
            level = 0.3 + 0.4 * (stress == "yes") + 0.02 * p
            rows += [f"S{p}-{k},S{p},{stress},{x:.4f}" for x in level + 0.05 * rng.normal(size=40)]
    (root / "all.csv").write_text("\n".join(rows) + "\n")
    lab = Lab(tmp_path)
    lab.run(
        "baseline", "recipes/folder/baseline.yaml", f"cohort.root={root}", "task=stress", "seconds=20", "stride_s=20",
        "average=person", "private={epsilons: [1, 10], delta: 0.01}", *SMALL,
    )  # fmt: skip
    (run,) = (tmp_path / "runs").glob("baseline-*")
    report = Report.read(run / "release" / "report.json")
    first = next(r for r in report.results if r.metric == "random forest macro-F1")
    assert first.value is not None
    assert first.value > 0.9
    assert first.low is not None
    assert {b.name for b in first.baselines} >= {"private, ε = 1", "private, ε = 10"}
    assert first.n_persons == 6
