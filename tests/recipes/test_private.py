"""A private run through its real commands: what it says, what it charges, what it does when killed or refused."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import yaml

from mien import cli
from mien.core.results import Report
from mien.privacy.ledger import Ledger
from mien.privacy.plan import Guarantee

from .conftest import RECIPES, Lab, copy_of, lab

ROOT = Path(__file__).resolve().parents[2]
PRIVATE = {
    **RECIPES["adapt"], "study": "toy_private", "privacy": {"epsilon": 8, "batch": 2, "rows": 6},
    "train": {**RECIPES["adapt"]["train"], "micro_batch": 4}, "lora": {"rank": 4, "alpha": 8},
}  # fmt: skip


def private(done: Lab, name: str) -> Lab:
    """A lab with the pretrained base, a private recipe and a ledger of its own."""
    made = copy_of(done, name, "pretrain")
    (made.folder / "private.yaml").write_text(yaml.safe_dump(PRIVATE, sort_keys=False))
    return made


def folder_of(made: Lab) -> Path:
    (one,) = (made.folder / "runs").glob("adapt-toy_private-*")
    return one


def ledger(made: Lab) -> Ledger:
    return Ledger.open(made.folder / "ledger" / "ledger.sqlite")


@pytest.fixture(scope="module")
def done(tmp_path_factory) -> Lab:
    made = lab(tmp_path_factory.mktemp("private") / "made")
    (made.folder / "private.yaml").write_text(yaml.safe_dump(PRIVATE, sort_keys=False))
    made.run("adapt", "private.yaml")  # pretrains the base by itself
    return made


def test_what_a_private_run_says(done):
    run = folder_of(done)
    told = Guarantee.read(run / "release" / "adapter" / "guarantee.json")
    assert 7.5 < told.epsilon <= 8
    assert told.unit == "person"
    assert told.n == 3
    assert told.steps == 24
    report = Report.read(run / "release" / "report.json")
    assert report.guarantee == told.sentence()
    assert told.sentence() in (run / "release" / "adapter" / "README.md").read_text()
    with ledger(done) as book:
        assert book.verify() == []
        book.check_anchor(told.ledger_seq, told.ledger_head)
        kinds = [e["kind"] for e in book.export()]
    assert kinds[-2:] == ["reserve", "settle"]
    # nothing data-dependent in the released half
    assert report.results == ()
    page, inside = ((run / half / "report.html").read_text() for half in ("release", "private"))
    assert "Privacy spent" in page
    assert "Training loss" not in page
    assert all(x in inside for x in ("Training loss", "whose gradient was clipped", "Privacy spent"))
    rows = [json.loads(line) for line in (run / "private" / "log.jsonl").read_text().splitlines()]
    assert all(0 <= r["clipped"] <= 1 for r in rows if r["clipped"] is not None)
    # and no secret anywhere: neither randomness nor the split's seed leaves the private half
    seed = json.loads((run / "private" / "splits.json").read_text())["seed"]
    released = "".join(p.read_text(errors="ignore") for p in (run / "release").rglob("*") if p.is_file())
    assert str(seed) not in released
    assert not [p for p in run.rglob("*") if "noise" in p.name or "rng" in p.name]


def test_again_is_reused_and_fresh_is_charged(done):
    made = done
    before = len(list(_reservations(made)))
    again = made.run("adapt", "private.yaml")
    assert "reused" in again.stdout
    assert len(list(_reservations(made))) == before
    adapter = folder_of(made) / "release" / "adapter" / "adapter_model.safetensors"
    first = adapter.read_bytes()
    made.run("adapt", "private.yaml", "--fresh")
    assert adapter.read_bytes() != first  # same recipe, same seed: batches and noise come from the operating system
    assert len(list(_reservations(made))) == before + 1
    told = Guarantee.read(folder_of(made) / "release" / "adapter" / "guarantee.json")
    assert any("2 runs have used this data source" in c for c in told.caveats)


def _reservations(made: Lab):
    with ledger(made) as book:
        yield from [e for e in book.export() if e["kind"] == "reserve"]


def test_later_verbs_carry_the_guarantee(done):
    made = done
    for verb, keys in (
        ("generate", {"adapter": "adapt-toy_private"}),
        ("attack", {"adapter": "adapt-toy_private", "synthetic": "generate-toy_private"}),
        ("evaluate", {"synthetic": "generate-toy_private", "attack": "attack-toy_private"}),
    ):
        recipe = {**RECIPES[verb], "study": "toy_private", **keys}
        (made.folder / f"{verb}_private.yaml").write_text(yaml.safe_dump(recipe))
        made.run(verb, f"{verb}_private.yaml")
        (run,) = (made.folder / "runs").glob(f"{verb}-toy_private-*")
        assert "differential privacy for each person" in Report.read(run / "release" / "report.json").guarantee
    (cohort,) = (made.folder / "runs").glob("generate-toy_private-*/release/cohort/cohort.json")
    assert "differential privacy for each person" in cohort.read_text()
    # side by side with another release
    recipe["beside"] = [run.name]
    (made.folder / "evaluate_private.yaml").write_text(yaml.safe_dump(recipe))
    made.run("evaluate", "evaluate_private.yaml")
    pages = [p.read_text() for p in (made.folder / "runs").glob("evaluate-toy_private-*/release/report.html")]
    assert sum("Side by side" in p for p in pages) == 1


def launched(made: Lab, how: str, *keys: str) -> tuple[list[str], dict[str, str]]:
    command = [
        sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(ROOT / "launch" / f"{how}.yaml"),
        "--num_processes", "2", "--main_process_port", "0", str(ROOT / "recipes" / "adapt.py"), "private.yaml", *keys,
    ]  # fmt: skip
    return command, {**made.env, **({"ACCELERATE_USE_CPU": "true"} if how == "ddp" else {})}


@pytest.mark.distributed
@pytest.mark.parametrize(
    "how", ["zero2", pytest.param("zero3", marks=pytest.mark.slow), pytest.param("ddp", marks=pytest.mark.slow)]
)
def test_killed_on_two_processes_and_finished(done, how):
    """kill -9 in the middle; the same command finishes. Lost steps are charged, none is taken twice."""
    made = private(done, f"private_{how}")
    steps = 150
    keys = (f"train.max_steps={steps}", "train.checkpoint_every=10", "privacy.epsilon=8")
    command, env = launched(made, how, *keys)
    with open(made.folder / "first.log", "w") as log:
        first = subprocess.Popen(command, cwd=made.folder, env=env, stdout=log, stderr=log)
        deadline = time.monotonic() + 240
        while time.monotonic() < deadline and first.poll() is None:
            if any(_begun(f) >= 25 for f in (made.folder / "runs").glob("adapt-toy_private-*/private/steps-begun")):
                break
            time.sleep(0.01)
        # the launcher starts its workers in sessions of their own: each is killed by itself
        for process in [*psutil.Process(first.pid).children(recursive=True), first]:
            os.kill(process.pid, signal.SIGKILL)
        first.wait()
    run = folder_of(made)
    begun = _begun(run / "private" / "steps-begun")
    kept = json.loads((run / "private" / "checkpoint" / "state.json").read_text())["step"]
    assert 25 <= begun < steps, (made.folder / "first.log").read_text()[-3000:]
    second = subprocess.run(command, cwd=made.folder, env=env, capture_output=True, text=True, timeout=300)
    assert second.returncode == 0, second.stdout[-2000:] + second.stderr[-3000:]
    assert f"continuing from step {kept}" in second.stdout
    if begun > kept:
        assert f"steps {kept + 1} to {begun} were begun and lost: they are charged" in second.stdout
    assert _begun(run / "private" / "steps-begun") == steps
    head = json.loads((run / "private" / "checkpoint" / "state.json").read_text())
    assert head["updates"] == steps - (begun - kept)  # what was lost is not taken again
    told = Guarantee.read(run / "release" / "adapter" / "guarantee.json")
    assert told.steps == steps
    assert told.epsilon <= 8
    with ledger(made) as book:
        assert [e["kind"] for e in book.export()].count("reserve") == 1
        assert book.verify() == []


def _begun(file: Path) -> int:
    try:
        return int(file.read_text())
    except (FileNotFoundError, ValueError):
        return 0


@pytest.fixture
def inside(monkeypatch, capfd):
    """Run a verb in this process (seconds, where a process of its own takes many to import everything)."""

    def run(made: Lab, *args: str) -> tuple[int, str, str]:
        for name in ("MIEN_CACHE", "MIEN_RUNS", "MIEN_LEDGER"):
            monkeypatch.setenv(name, made.env[name])
        monkeypatch.chdir(made.folder)
        capfd.readouterr()
        code = cli.main(list(args))
        return code, *capfd.readouterr()

    return run


def no_gradient(made: Lab) -> None:
    """And nobody stays charged for what was not computed."""
    assert not list((made.folder / "runs").glob("adapt-*/private/steps-begun"))
    assert not list((made.folder / "runs").glob("adapt-*/private/checkpoint"))


def corrupt(made: Lab) -> None:
    file = made.folder / "ledger" / "ledger.sqlite"
    with ledger(made):
        pass
    for extra in file.parent.glob("ledger.sqlite-*"):
        extra.unlink()
    file.write_bytes(b"no database" * 200)
    file.chmod(0o600)


def lost_key(made: Lab) -> None:
    with ledger(made):
        pass
    (made.folder / "ledger" / "ledger.sqlite.key").unlink()


@pytest.mark.parametrize(
    ("keys", "before", "says"),
    [
        (["privacy.epsilon=-1"], None, "privacy.epsilon"),
        (["privacy.delta=0.5"], None, "privacy.delta"),
        (["privacy.sampling=shuffle"], None, "cannot be accounted"),
        (["privacy.batch=9"], None, "privacy.batch"),
        (["privacy.cap=3"], None, "past the cap"),
        (["privacy.unit=recording", "privacy.max_recordings_per_person=2"], None, "somebody in the training split has"),
        (["split.kind=random_window"], None, "split.kind: random_window"),
        (["split.holdout=5"], None, "with fewer than two"),
        (["privacy.n=2"], None, "privacy.n: 2, but the training split has 3"),
        (["privacy.colour=red"], None, "colour"),
        (["lora.dropout=0.1"], None, "Set lora.dropout to 0"),
        (["privacy.clipping=adaptive", "privacy.epsilon=1"], None, "privacy.quantile_noise"),
        (["protections=[{name: adversary, attributes: [identity]}]"], None, "leave it out"),
        ([], corrupt, "ledger"),
        ([], lost_key, "key"),
    ],
)
def test_refused_before_any_gradient(done, tmp_path, inside, keys, before, says):
    made = private(done, f"refused_{tmp_path.name}")
    if before:
        before(made)
    code, out, err = inside(made, "adapt", "private.yaml", *keys)
    assert code == 2, out + err
    assert says in err
    no_gradient(made)
    if before is None:
        with ledger(made) as book:
            assert all(s.epsilon == 0 for s in book.spent())


def test_a_checkpoint_of_another_plan_and_a_lost_record(done, inside):
    made, run = done, folder_of(done)
    (run / "status.json").write_text(json.dumps({"status": "running", "hash": _hash(run)}))
    state = run / "private" / "checkpoint" / "state.json"
    head = json.loads(state.read_text())
    state.write_text(json.dumps({**head, "plan": "0" * 64}))
    code, _, err = inside(made, "adapt", "private.yaml")
    assert code == 2
    assert "another privacy plan" in err
    state.write_text(json.dumps(head))
    record = run / "private" / "steps-begun"
    kept = record.read_text()
    record.unlink()
    code, _, err = inside(made, "adapt", "private.yaml")
    assert code == 2
    assert "0 of 24 steps were begun. One of them was restored from a copy" in err
    record.write_text(kept)
    assert inside(made, "adapt", "private.yaml")[0] == 0  # stopped after its last step: only the report was missing


def _hash(run: Path) -> str:
    return json.loads((run / "status.json").read_text())["hash"]
