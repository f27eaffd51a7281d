"""Every verb through its real command: what it leaves, reuse, kill -9 and Ctrl-C in the middle, accelerate."""

from __future__ import annotations

import json
import os
import re
import signal
import stat
import subprocess
import sys
import time
from html.parser import HTMLParser
from pathlib import Path

import pytest

from mien import cli
from mien.core.records import Cohort
from mien.core.results import Report

from .conftest import Lab, copy_of, lab

VERBS = ("pretrain", "adapt", "generate", "attack", "evaluate")
BEFORE = {v: VERBS[:i] for i, v in enumerate(VERBS)}


def results_of(lab: Lab, verb: str) -> list[dict]:
    return json.loads((lab.only(verb) / "release" / "report.json").read_text())["results"]


def outcome(lab: Lab, verb: str) -> bytes | str | list[dict]:
    """What must come out the same, however often the verb was killed on the way."""
    release = lab.only(verb) / "release"
    if verb == "pretrain":
        return (release / "base" / "model.safetensors").read_bytes()
    if verb == "adapt":
        return (release / "adapter" / "adapter_model.safetensors").read_bytes()
    if verb == "generate":
        return Cohort.read(release / "cohort").fingerprint
    return results_of(lab, verb)


# --- what a run leaves ----------------------------------------------------------------------------------
@pytest.mark.parametrize("verb", VERBS)
def test_two_halves(chain, verb):
    run = chain.only(verb)
    assert stat.S_IMODE((run / "private").stat().st_mode) == 0o700
    report = Report.read(run / "release" / "report.json")
    assert report.verb == verb
    assert report.environment["torch"]
    assert {"config.yaml", "status.json", "private", "release"} <= {p.name for p in run.iterdir()}
    assert not [p for p in run.rglob("*") if p.name.endswith((".partial", ".old"))]


def test_adapter_folder(chain):
    files = {p.name for p in (chain.only("adapt") / "release" / "adapter").iterdir()}
    assert files == {"README.md", "adapter_config.json", "adapter_model.safetensors", "layout.json"}


def test_what_takes_seconds_before_the_first_bar_is_said(chain):
    lab = copy_of(chain, "waits", "pretrain")
    out = lab.fresh("adapt", "adapt.yaml").stdout  # which has torch to start
    bar = out.index("encoding recordings")
    for line in ("starting torch …", "reading the cohort motion …", "loading the base tiny …"):
        assert -1 < out.find(line) < bar, line


def test_synthetic_cohort_is_valid_and_in_units(chain):
    cohort = Cohort.read(chain.only("generate") / "release" / "cohort")
    (valid,) = results_of(chain, "generate")
    assert valid["value"] == 1.0
    assert len(cohort) == 12 * 8
    assert cohort.card.synthetic
    assert "ε = ∞" in cohort.card.guarantee
    one = cohort[0]
    assert one.streams["acc"].unit == "g"
    assert one.streams["acc"].values.shape == (100, 3)
    assert {r.labels["movement"] for r in cohort} == set(cohort.card.tasks["movement"])


class Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.bad: list[str] = []

    def handle_starttag(self, tag, attrs):
        if tag in ("script", "link", "iframe", "object", "embed"):
            self.bad.append(tag)
        for name, value in attrs:
            if name in ("src", "href", "xlink:href", "action") and value and not value.startswith(("#", "data:")):
                self.bad.append(f"{tag} {name}={value}")


@pytest.mark.parametrize("verb", ["pretrain", "adapt", "attack", "evaluate"])
def test_release_reports_are_self_contained_and_leak_nobody(chain, verb):
    page = (chain.only(verb) / "release" / "report.html").read_text()
    parser = Links()
    parser.feed(page)
    assert parser.bad == []
    assert "viewport" in page
    assert "ε = ∞" in page or verb == "pretrain"  # of simulated recordings
    assert ("Training loss" in page) == (verb == "pretrain")
    splits = json.loads((chain.only("adapt") / "private" / "splits.json").read_text())
    for person in splits["train"] + splits["holdout"]:
        for file in (chain.only(verb) / "release").rglob("*"):
            if file.suffix in (".html", ".json"):
                assert not re.search(rf"\b{re.escape(person)}\b", file.read_text())
    for one in ("adapt", "evaluate"):
        assert (chain.only(one) / "private" / "report.html").exists()
    assert "Training loss" in (chain.only("adapt") / "private" / "report.html").read_text()


def test_main_numbers_stand_beside_their_baselines(chain):
    metrics = {r["metric"]: r for r in results_of(chain, "evaluate")}
    tstr = next(v for k, v in metrics.items() if k.lower().startswith("tstr acc"))
    assert tstr["n_persons"] == 3
    assert tstr["low"] <= tstr["value"] <= tstr["high"]
    names = " ".join(b["name"].lower() for b in tstr["baselines"])
    assert all(word in names for word in ("majority", "metadata", "trtr"))
    attacks = {r["metric"]: r for r in results_of(chain, "attack")}
    for name in ("loss", "reference", "slope", "min_k", "ez"):
        r = attacks[f"{name}.auc"]
        assert {"chance", "blind", "planted"} <= {b["name"] for b in r["baselines"]}
        assert (r["value"] is None) == r["note"].startswith("withheld")
    assert "adapter off" in {b["name"] for b in attacks["reference.auc"]["baselines"]}
    # without shadow models, and with six persons, some cannot run; that never looks like a pass
    for name in ("bavaria.auc", "user.auc", "quantile.auc", "epsilon_lower_bound", "domias.auc"):
        assert attacks[name]["value"] is None
        assert attacks[name]["note"].startswith("not run:")
    for r in attacks.values():
        if "tpr_at_fpr_0.01" in r["metric"]:
            assert r["value"] is None
            assert "not resolvable" in r["note"]


@pytest.mark.slow
def test_shadow_models_and_recordings_kept_out_of_training(chain):
    lab = copy_of(chain, "shadows", "pretrain")
    lab.run("adapt", "adapt.yaml", "split.fresh=2", "lora.dropout=0")
    command = ("attack", "attack.yaml", "synthetic=null", "--profile", "full", "shadows.count=4", "shadows.at_once=2")
    lab.run(*command)
    (run,) = lab.runs("attack")
    found = {r["metric"]: r for r in json.loads((run / "release" / "report.json").read_text())["results"]}
    for name in ("bavaria", "user", "lira", "rmia", "sequence_lira"):
        for knows in ("", " (other recordings)"):
            assert not found[f"{name}{knows}.auc"]["note"].startswith("not run"), found[f"{name}{knows}.auc"]
    assert "most_exposed_tenth" in " ".join(found)
    persons = (run / "private" / "persons.csv").read_text()
    splits = json.loads((lab.only("adapt") / "private" / "splits.json").read_text())
    assert len(splits["fresh"]) == 2 * 6
    assert all(p in persons for p in splits["train"] + splits["holdout"])
    # killed between two stacks: what is finished is kept
    (run / "status.json").write_text(json.dumps({**json.loads((run / "status.json").read_text()), "status": "running"}))
    (run / "private" / "signals.parquet").unlink()
    kept, again = (run / "private" / f"shadows-{i}-0.npz" for i in (0, 2))
    again.unlink()
    before = kept.stat().st_mtime_ns
    assert "shadow models 3 to 4 of 4" in lab.run(*command).stdout
    assert kept.stat().st_mtime_ns == before
    assert again.exists()
    said = lab.run(*command, "shadows.width=2.0").stdout  # any interval is narrower than that
    assert "2 shadow models are enough" in said
    assert "shadow models 3 to 4" not in said


# --- again ----------------------------------------------------------------------------------------------
def test_finished_runs_are_reused_and_seeds_make_others(chain):
    lab = copy_of(chain, "reuse", "pretrain", "adapt")
    said = lab.run("adapt", "adapt.yaml").stdout
    assert "reused" in said
    assert len(lab.runs("adapt")) == 1
    lab.run("adapt", "adapt.yaml", "--seed", "1", "train.max_steps=4")
    assert len(lab.runs("adapt")) == 2


def test_same_seed_same_bits_through_accelerate(chain):
    """`accelerate launch … recipes/adapt.py` and `mien adapt` do the same thing, bit for bit."""
    import mien

    root = Path(mien.__file__).resolve().parent
    lab = copy_of(chain, "accelerate", "pretrain")
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(root / "launch" / "cpu.yaml")]
    done = subprocess.run(
        [*launch, str(root / "recipes" / "adapt.py"), "adapt.yaml"],
        cwd=lab.folder, env=lab.env, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert outcome(lab, "adapt") == outcome(chain, "adapt")
    assert lab.only("adapt").name == chain.only("adapt").name


# --- interruptions --------------------------------------------------------------------------------------
PROGRESS = {
    "pretrain": "private/checkpoint/state.json",
    "adapt": "private/checkpoint/state.json",
    "generate": "private/part-00000.npz",
    "attack": "private/signals.parquet",
    "evaluate": "status.json",
}


KILLS = [("adapt", signal.SIGKILL), ("adapt", signal.SIGINT), ("generate", signal.SIGKILL), ("attack", signal.SIGKILL)]
MORE_KILLS = [k for k in ((v, s) for v in VERBS for s in (signal.SIGKILL, signal.SIGINT)) if k not in KILLS]


@pytest.mark.parametrize(("verb", "how"), [*KILLS, *(pytest.param(*k, marks=pytest.mark.slow) for k in MORE_KILLS)])
def test_killed_in_the_middle_then_continued(chain: Lab, verb: str, how: signal.Signals):
    lab = copy_of(chain, f"{verb}-{how.name}", *BEFORE[verb])
    process = subprocess.Popen(
        lab.command(verb, f"{verb}.yaml"), cwd=lab.folder, env=lab.env, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if any((run / PROGRESS[verb]).exists() for run in lab.runs(verb)):
            break
        time.sleep(0.002)
    assert process.poll() is None, f"{verb} was over before it could be killed: {process.communicate()}"
    os.killpg(process.pid, how)
    said, error = process.communicate(timeout=60)
    assert process.returncode != 0, said + error
    if how == signal.SIGINT:
        assert process.returncode == 130, said + error
        assert error.strip().splitlines()[-1] == "mien: stopped; run the same command again to continue where it was"
        assert "Traceback" not in error
    run = lab.only(verb)
    assert json.loads((run / "status.json").read_text())["status"] == "running"
    for file in run.rglob("*.json"):
        if ".partial" not in str(file):
            json.loads(file.read_text())  # nothing half-written stands in a real place
    again = lab.run(verb, f"{verb}.yaml")
    assert "continuing" in again.stdout
    assert outcome(lab, verb) == outcome(chain, verb)
    assert not [p for p in run.rglob("*") if ".partial" in p.name or p.name.endswith(".old")]


# --- one line a person can act on -----------------------------------------------------------------------
@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["adapt", "adapt.yaml", "train.max_step=3"], "unknown key 'train.max_step'; did you mean 'max_steps'?"),
        (["adapt", "adapt.yaml", "train.max_steps=lots"], "train.max_steps: input should be a valid integer"),
        (["adapt", "nowhere.yaml"], "no such recipe: nowhere.yaml"),
        (["adapt", "adapt.yaml", "cohort.name=motoin"], "did you mean 'motion'?"),
        (["adapt", "adapt.yaml", "task=mood"], "no task 'mood'; its tasks are movement"),
        (["adapt", "adapt.yaml", "cohort.persons=1"], "at least two"),
        (["adapt", "adapt.yaml", "seconds=3600"], "no window of 3600 s"),
        (["adapt", "adapt.yaml", "cohort.recordings_per_person=1"], "no training recording has movement = "),
        (["adapt", "adapt.yaml", "lora.targets=[nope]"], "not among the base's linear layers"),
        (["adapt", "adapt.yaml", "study=../elsewhere"], "study: string should match pattern"),
        (["adapt", "adapt.yaml", "seed=-1"], "seed: input should be greater than or equal to 0"),
        (["adapt", "adapt.yaml", "train.batch=0"], "train.batch: input should be greater than or equal to 1"),
        (["adapt", "adapt.yaml", "train.lr=.nan"], "train.lr: input should be a finite number"),
        (["adapt", "adapt.yaml", "train.checkpoint_every=0"], "train.checkpoint_every"),
        (["adapt", "adapt.yaml", "stride_s=0"], "stride_s: input should be greater than 0"),
        (["adapt", "adapt.yaml", "lora.rank=0"], "lora.rank"),
        (["adapt", "adapt.yaml", "codec.hz=0"], "hz: input should be greater than 0"),
        (["adapt", "adapt.yaml", "streams=[acc, acc]"], "names one twice"),
        (["adapt", "adapt.yaml", "backbone={name: causal_lm, model: /none}"], "cannot load the causal LM '/none'"),
        (["generate", "generate.yaml", "sampling.per_label=0"], "sampling.per_label"),
        (["generate", "generate.yaml", "sampling.temperature=0"], "sampling.temperature"),
        (["generate", "generate.yaml", "adapter=adapt-none"], "no finished run 'adapt-none'"),
        (["evaluate", "evaluate.yaml", "synthetic=nothing"], "no finished run 'nothing'"),
        (["adpat", "adapt.yaml"], "did you mean 'adapt'?"),
        (["data", "chek"], "no command `mien data chek`"),
        (["assets", "fetch", "wacth"], "watch"),
    ],
)
def test_errors_are_one_line(chain, args, says, monkeypatch, capsys):
    lab = copy_of(chain, "errors", "pretrain", "adapt")
    monkeypatch.chdir(lab.folder)
    for name in ("MIEN_CACHE", "MIEN_RUNS"):
        monkeypatch.setenv(name, lab.env[name])
    before = {p for p in (lab.folder / "runs").rglob("*")}
    assert cli.main(args) == 2
    error = capsys.readouterr().err
    lines = [x for x in error.strip().splitlines() if x.startswith("mien: ")]
    assert len(lines) == 1
    assert says in lines[0]
    assert "Traceback" not in error
    left = {p for p in (lab.folder / "runs").rglob("*")} - before
    assert not [p for p in left if "release" in p.parts and p.is_file()], "a failed run must release nothing"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("task=mood", "no task 'mood'"),
        ("codecs=[{name: motion, streams: [acc]}]", "other behaviour tokens (transform) than this recipe's: motion"),
    ],
)
def test_what_cannot_be_written_does_not_wait_for_a_base(tmp_path, monkeypatch, capsys, change, says):
    made = lab(tmp_path / "toy")
    monkeypatch.chdir(made.folder)
    for name in ("MIEN_CACHE", "MIEN_RUNS"):
        monkeypatch.setenv(name, made.env[name])
    assert cli.main(["adapt", "adapt.yaml", change]) == 2
    captured = capsys.readouterr()
    assert says in captured.err
    assert "pretrain" not in captured.out
    assert not made.runs("pretrain")


def test_random_window_split_is_marked_and_not_attacked(chain):
    lab = copy_of(chain, "windows", "pretrain")
    lab.run("adapt", "adapt.yaml", "split.kind=random_window", "train.max_steps=2")
    lab.run("generate", "generate.yaml", "sampling.per_label=4")
    lab.run("attack", "attack.yaml")
    lab.run("evaluate", "evaluate.yaml")
    for verb in ("adapt", "generate", "attack", "evaluate"):
        text = (lab.only(verb) / "release" / "report.json").read_text()
        assert "random windows" in text, verb
    assert results_of(lab, "attack") == []


def mounted(folder: Path, size: str) -> bool:
    folder.mkdir(exist_ok=True)
    return (
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], capture_output=True
        ).returncode
        == 0
    )


@pytest.mark.parametrize("verb", ["adapt", pytest.param("generate", marks=pytest.mark.slow)])
def test_full_disk(chain, verb, tmp_path):
    lab = copy_of(chain, f"full-{verb}", *BEFORE[verb])
    small = tmp_path / "small"
    if not mounted(small, "96k"):
        pytest.skip("mounting a tmpfs needs root")
    try:
        for run in (lab.folder / "runs").iterdir():
            (small / run.name).symlink_to(run)
        env = {**lab.env, "MIEN_RUNS": str(small)}
        done = subprocess.run(
            lab.command(verb, f"{verb}.yaml"), cwd=lab.folder, env=env, capture_output=True, text=True
        )
        assert done.returncode == 2, done.stderr[-3000:]
        assert "the disk is full" in done.stderr
        assert "Traceback" not in done.stderr
        (run,) = [p for p in small.glob(f"{verb}-*") if not p.is_symlink()]
        assert not [p for p in run.rglob("*.partial")]
        subprocess.run(["mount", "-o", "remount,size=64m", str(small)], check=True)
        again = subprocess.run(
            lab.command(verb, f"{verb}.yaml"), cwd=lab.folder, env=env, capture_output=True, text=True
        )
        assert again.returncode == 0, again.stderr[-3000:]
        assert "continuing" in again.stdout
    finally:
        subprocess.run(["umount", "-l", str(small)], check=False)
