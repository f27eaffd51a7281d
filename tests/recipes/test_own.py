"""Recordings by an adapter of one person's own: they teach it, stay in the private half, are refused by whatever shares, and go by one
command."""

from __future__ import annotations

import json
from itertools import count

import pytest
import torch

from mien import cli
from mien.adapters import lora, personal
from mien.core.errors import MienError
from mien.core.records import Cohort
from mien.core.runs import Run
from mien.generation import own
from mien.generation.adapted import open_adapted
from mien.generation.likelihood import measure
from mien.generation.tokens import Documents

from .conftest import copy_of

LABS = count()


@pytest.fixture
def mine(chain, monkeypatch):
    lab = copy_of(chain, f"own-{next(LABS)}", "pretrain", "adapt")
    monkeypatch.chdir(lab.folder)
    for name in ("MIEN_CACHE", "MIEN_RUNS"):
        monkeypatch.setenv(name, lab.env[name])
    split = json.loads((lab.only("adapt") / "private" / "splits.json").read_text())
    return lab, split["holdout"][0]


def test_it_learns_one_person_and_the_shared_adapter_does_not_move(mine):
    lab, person = mine
    adapted = open_adapted(lab.only("adapt"))
    cohort = own.open_cohort(own.Plugin(**adapted.config["cohort"]), "training")[0]
    documents = Documents.encode(
        cohort.select(lambda p: p == person), adapted.layout, stride_s=2.0, valid=adapted.config["valid"], quiet=True
    )
    ids = torch.tensor([documents[0].tolist()])
    before, shared = measure(adapted, documents, slope=False)["loss"], adapted.model(input_ids=ids).logits
    with Run.start("generate", "own", {}, {}) as run:
        own.fit(adapted, own.Own(person=person, steps=40, rank=4, lr=2e-2), run, 0)
    assert not any(p.requires_grad for p in adapted.model.parameters())
    after = measure(adapted, documents, slope=False)["loss"]
    assert (after < before).mean() > 0.8
    lora.switch(adapted.model, ("default",))
    assert torch.equal(adapted.model(input_ids=ids).logits, shared)


def test_what_it_makes_is_private_refused_and_forgotten(mine, capsys):
    lab, person = mine
    args = [
        "generate",
        "generate.yaml",
        "study=alone",
        f"personal.person={person}",
        "personal.steps=3",
        "sampling.per_label=2",
    ]
    out = lab.run(*args).stdout
    (run,) = (lab.folder / "runs").glob("generate-alone-*")
    assert own.GUARANTEE in out.replace("\n", " ")
    cohort = Cohort.read(run / "private" / "cohort")
    assert len(cohort) == 16
    assert "<svg" in (run / "private" / "report.html").read_text()
    assert not (run / "release" / "report.html").exists()
    assert cohort.card.guarantee == own.GUARANTEE
    assert not (run / "release" / "cohort").exists()
    assert all(person not in f.read_text(errors="replace") for f in (run / "release").rglob("*") if f.is_file())
    assert person not in (run / "config.yaml").read_text()
    with pytest.raises(MienError, match="never shared"):
        personal.refuse_to_share(run)
    assert cli.main(["data", "touches", person]) == 0
    assert run.name in capsys.readouterr().out
    assert cli.main(["data", "forget", "somebody-else"]) == 0
    assert run.exists()
    assert cli.main(["data", "forget", person]) == 0
    assert "1 personal adapter deleted" in capsys.readouterr().out
    assert not run.exists()
    assert lab.only("adapt").exists()


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["personal.person=nobody"], "not among the 6 persons"),
        (["personal.person=p", "given={relation: vary}"], "leave out `given`"),
        (["personal.steps=5"], "personal.person"),
    ],
)
def test_who_has_no_adapter_of_their_own(mine, capsys, more, says):
    lab, _ = mine
    assert cli.main(["generate", "generate.yaml", "study=none", *more]) == 2
    assert says in capsys.readouterr().err
    assert not list((lab.folder / "runs").glob("generate-none-*/release/cohort"))


def test_a_report_does_not_say_whose(mine):
    lab, person = mine
    told = own.public({"personal": {"person": person, "steps": 3}, "study": "x"})
    assert person not in json.dumps(told)
    assert told["personal"]["steps"] == 3
    assert own.public({"study": "x", "personal": None}) == {"study": "x", "personal": None}
