"""What attacks are given of a model, against the model itself."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import special

from mien.adapters import lora
from mien.attacks import tokenwise
from mien.attacks.signals import RENYI, Signals
from mien.backbones import tiny
from mien.backbones.causal_lm import CausalBackbone, linear_names
from mien.core.config import Plugin
from mien.core.records import Cohort
from mien.generation import likelihood
from mien.generation.adapted import Adapted, rows_to_train
from mien.generation.grammar import constrain
from mien.generation.layout import Layout
from mien.generation.observed import Sight
from mien.generation.tokens import Documents
from mien.generation.vocabulary import Vocabulary

from ..conftest import CARD, recordings

VOCABULARY = Vocabulary(("transform",))


@pytest.fixture
def seen(home, tmp_path):
    """(adapted, documents, what `measure` says, its token signals)"""
    layout = Layout.of(CARD, seconds=2.0, task="activity", codec=Plugin(name="transform"))
    documents = Documents.encode(Cohort.build(recordings(4), card=CARD), layout, stride_s=2.0, quiet=True)
    shape = tiny.Shape(hidden=32, layers=2, heads=2, feed_forward=48)
    model = constrain(tiny.fresh(shape, VOCABULARY.size, 0), layout.grammar, 0)
    model.requires_grad_(False)
    backbone = CausalBackbone(
        model=model, identity="", revision=None, fingerprint="", offset=0, lora_targets=linear_names(model),
        speaks_behaviour=True,
    )  # fmt: skip
    model = lora.attach(backbone, lora.Lora(rank=4, alpha=8), rows_to_train(layout, backbone), 0)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:
                p.add_(0.1 * torch.randn(p.shape, generator=generator))
    adapted = Adapted(folder=tmp_path, config={}, backbone=backbone, model=model, layout=layout)
    chunks = []
    found = likelihood.measure(adapted, documents, 5, lambda **chunk: chunks.append(chunk))
    return adapted, documents, found, chunks


def logits_of(adapted, documents, i):
    batch = adapted.backbone.batch([documents[i]], prompt=documents.layout.prompt_length, persons=[0])
    return adapted.model(input_ids=batch.ids, attention_mask=batch.mask).logits[0], batch


def test_losses_and_segments_are_those_of_each_document_alone(seen):
    adapted, documents, found, _ = seen
    adapted.model.eval()
    for i in range(len(documents)):
        with torch.no_grad():
            logits, batch = logits_of(adapted, documents, i)
        logp = special.log_softmax(logits.double().numpy(), axis=-1)
        prompt = documents.layout.prompt_length
        own = np.array([logp[t - 1, batch.ids[0, t]] for t in range(prompt, batch.ids.shape[1])])
        assert found["n_tokens"][i] == len(own)
        assert found["loss"][i] == pytest.approx(-own.mean(), abs=1e-5)
        cuts = np.array_split(own, likelihood.SEGMENTS) if len(own) % likelihood.SEGMENTS == 0 else None
        if cuts is not None:
            assert found["segments"][i] == pytest.approx([c.mean() for c in cuts], abs=1e-5)
        assert own.min() - 1e-6 <= found["segments"][i].min() <= found["segments"][i].max() <= own.max() + 1e-6
    with adapted.model.disable_adapter(), torch.no_grad():
        logits, batch = logits_of(adapted, documents, 0)
        nll, counted = adapted.backbone._token_losses(logits[None], batch)
    assert found["loss_base"][0] == pytest.approx(float(nll.sum() / counted.sum()), abs=1e-5)
    assert (found["loss_base"] != found["loss"]).all()


def test_the_slope_is_the_gradient_along_the_update(seen):
    """d loss / d scale = <gradient with respect to B, B>, by autograd."""
    adapted, documents, found, _ = seen
    for i in (0, 3):
        adapted.model.zero_grad()
        batch = adapted.backbone.batch([documents[i]], prompt=documents.layout.prompt_length, persons=[0])
        adapted.backbone.losses(adapted.model, batch).sum().backward()
        along = sum(float((p.grad * p.detach()).sum()) for n, p in adapted.model.named_parameters() if ".lora_B." in n)
        assert found["slope"][i] == pytest.approx(along, abs=2e-3)
    after = likelihood.measure(adapted, documents, 5)  # the scale is as it was
    assert after["loss"] == pytest.approx(found["loss"], abs=1e-6)
    assert "slope" not in likelihood.measure(adapted, documents, 5, slope=False)


def test_a_batch_has_no_more_logits_than_memory_is_meant_to_hold(seen, monkeypatch):
    """64 documents of 1,600 tokens over 9,383 were 23 GB, and the attack was killed."""
    adapted, documents, found, _ = seen
    longest = max(len(documents[i]) for i in range(len(documents)))
    monkeypatch.setattr(likelihood, "LOGITS", 3 * longest * VOCABULARY.size)
    made = [(rows, batch.ids.shape) for rows, batch in likelihood.batches(adapted.backbone, documents, 5, "cpu")]
    assert np.concatenate([rows for rows, _ in made]).tolist() == list(range(len(documents)))
    assert max(n * width * VOCABULARY.size for _, (n, width) in made) <= likelihood.LOGITS
    assert max(n for _, (n, _) in made) >= 3
    assert likelihood.measure(adapted, documents, 5)["loss"] == pytest.approx(found["loss"], abs=1e-6)
    monkeypatch.setattr(likelihood, "LOGITS", 1)  # no document fits: one at a time
    assert [len(rows) for rows, _ in likelihood.batches(adapted.backbone, documents, 5, "cpu")] == [1] * len(documents)


def test_token_signals_are_those_of_the_distribution(seen):
    adapted, documents, found, chunks = seen
    assert likelihood.ORDERS == RENYI
    assert sum(len(c["offsets"]) - 1 for c in chunks) == len(documents)
    assert [c["first"] for c in chunks] == list(range(0, len(documents), 5))
    chunk = chunks[0]
    for i in range(3):
        rows = slice(chunk["offsets"][i], chunk["offsets"][i + 1])
        with torch.no_grad():
            logits, batch = logits_of(adapted, documents, i)
        prompt = documents.layout.prompt_length
        before = logits.double().numpy()[prompt - 1 : -1]
        mean, sd = tokenwise.vocabulary_moments(before)
        assert chunk["mean"][rows] == pytest.approx(mean, abs=1e-4)
        assert chunk["sd"][rows] == pytest.approx(sd, abs=1e-3)
        p = np.exp(special.log_softmax(before, axis=-1))
        for j, order in enumerate(RENYI):
            assert chunk["entropy"][rows, j] == pytest.approx(tokenwise.renyi_entropy(p, order), abs=1e-3)
        assert -chunk["logp"][rows].mean() == pytest.approx(found["loss"][i], abs=1e-5)
        ids = batch.ids[0, prompt:].numpy()
        assert (chunk["top"][rows] == (before.argmax(-1) == ids)).all()
        marks = np.flatnonzero((ids >= 67) & (ids < 83))
        assert (chunk["part"][rows][marks] == ids[marks] - 67).all()
        assert set(chunk["part"][rows]) == set((ids[marks] - 67).tolist())


def test_the_table_leaves_out_what_could_not_be_coded():
    """One window of the only stream that is written has a short gap: it has statistics and no document."""

    def broken(r, has):
        eda = r.streams["eda"]
        valid = np.ones(len(eda.values), bool)
        valid[9:10] = not has
        return replace(r, streams={**r.streams, "eda": replace(eda, valid=valid)})

    cohort = Cohort.build([broken(r, i == 3) for i, r in enumerate(recordings(4))], card=CARD)
    layout = Layout.of(CARD, seconds=2.0, task="activity", streams=("eda",), codec=Plugin(name="transform"))
    config = {"stride_s": 2.0, "valid": 0.8, "seconds": 2.0, "task": "activity", "streams": ["eda"]}
    sight = Sight.of(SimpleNamespace(layout=layout, config=config), cohort)  # type: ignore[arg-type]
    d = sight.documents
    assert len(d) == len(d.usable) - 1
    signals = Signals(
        recording=np.array(d.recordings, object)[d.recording], person=np.array(d.persons, object)[d.person],
        label=np.array(layout.classes, object)[d.label], member=np.zeros(len(d), bool), n_tokens=np.ones(len(d), int),
        made_with="",
    ).with_table(sight.table)  # fmt: skip
    assert len(signals.features) == len(d)
    table, tokens = sight.both(cohort)
    assert len(table) == len(tokens) == len(d)
    assert np.array_equal(sight.table.meta, table.meta)
