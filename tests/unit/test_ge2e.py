"""The speaker encoder on tiny random weights: it is torch's own LSTM, rows stand alone, every person's gradient is its own; and,
slow, the real weights, which know one voice from another."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mien.adapters.lora import Lora
from mien.adapters.representation import _targets
from mien.backbones import ge2e
from mien.backbones._binder import Absent, collate
from mien.core import assets
from mien.core.errors import MienError
from mien.core.records import Signal
from mien.data.datasets import simulated_life as life

from ..conftest import fetched
from .person_by_person import adapted, assert_the_same


@pytest.fixture
def binder():
    return ge2e.load(ge2e.Config(model="tiny", clips=2))


def tone(hz: float, rate: float = 16_000, seconds: float = 3.0, loud: float = 0.2, channels: int = 1) -> Signal:
    wave = loud * np.sin(2 * np.pi * hz * np.arange(round(seconds * rate)) / rate)
    names = tuple("ab"[:channels])
    return Signal(values=np.repeat(wave[:, None], channels, 1), rate_hz=rate, channels=names, unit="full scale")


SOUNDS = [tone(200), tone(900, 8000, 1.0), tone(400, 44_100, 2.0, channels=2)]


def rows(binder):
    return collate([binder.towers["audio"].prepare(s) for s in SOUNDS])


def published(width: int = 16) -> dict[str, torch.Tensor]:
    """A random checkpoint under the published names."""
    torch.manual_seed(1)
    lstm, linear = torch.nn.LSTM(40, width, 3, batch_first=True), torch.nn.Linear(width, width)
    return {f"lstm.{k}": v.detach() for k, v in lstm.state_dict().items()} | {
        f"linear.{k}": v.detach() for k, v in linear.state_dict().items()
    }


def test_it_is_torchs_lstm_with_the_published_head(tmp_path):
    state = {**published(), "similarity_weight": torch.ones(1)}
    torch.save({"model_state": state, "step": 3}, tmp_path / "given.pt")
    model = ge2e.encoder(16)
    ge2e.fill(model, tmp_path / "given.pt")
    lstm, linear = torch.nn.LSTM(40, 16, 3, batch_first=True), torch.nn.Linear(16, 16)
    lstm.load_state_dict({k[5:]: v for k, v in state.items() if k.startswith("lstm.")})
    linear.load_state_dict({k[7:]: v for k, v in state.items() if k.startswith("linear.")})
    mel = torch.rand(4, 2, 30, 40, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        each = []
        for clip in range(2):
            _, (hidden, _) = lstm(mel[:, clip])
            raw = linear(hidden[-1]).relu()
            each.append(raw / raw.norm(dim=1, keepdim=True))
        mean = torch.stack(each).mean(0)
        torch.testing.assert_close(ge2e._embed(model, {"mel": mel}), mean / mean.norm(dim=1, keepdim=True))


def test_a_mel_band_holds_the_power_of_its_tone():
    """Against the discrete Fourier transform of one frame, written out."""
    wave = tone(1000.0).values[:, 0].astype(float)
    mel = ge2e.prepare(tone(1000.0), clips=1)["mel"][0]
    assert mel.shape == (160, 40)
    at = 100 * 160  # the middle of frame 100
    frame = wave[at - 200 : at + 200] * (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400))
    power = np.abs(np.fft.rfft(frame)) ** 2
    np.testing.assert_allclose(mel[100], power @ ge2e._filters(), rtol=1e-4, atol=1e-6 * mel.max())
    assert mel[100].argmax() == ge2e._filters()[round(1000 / 40)].argmax()


def test_quiet_sound_is_made_louder_and_loud_sound_is_not():
    loud, louder = (ge2e.prepare(tone(300, loud=x), clips=1)["mel"] for x in (0.2, 0.4))
    np.testing.assert_allclose(louder, 4 * loud, rtol=1e-4, atol=1e-6)
    faint, fainter = (ge2e.prepare(tone(300, loud=x), clips=1)["mel"] for x in (0.002, 0.004))
    np.testing.assert_allclose(fainter, faint, rtol=1e-3, atol=1e-4)
    silence = Signal(values=np.zeros((16_000, 1)), rate_hz=16_000.0, channels=("a",), unit="full scale")
    assert np.isfinite(ge2e.prepare(silence, clips=1)["mel"]).all()


def test_a_short_window_ends_in_silence_and_clips_are_spread():
    short = ge2e.prepare(tone(300, seconds=1.0), clips=2)["mel"]
    assert short.shape == (2, 160, 40)
    assert (short[:, 105:] < 1e-9).all()
    assert (short[:, 10:95].sum(2) > 0).all()
    rising = np.concatenate([tone(300, seconds=1.6, loud=x).values for x in (0.1, 0.3, 0.5)])
    heard = ge2e.prepare(Signal(values=rising, rate_hz=16_000.0, channels=("a",), unit=""), clips=3)["mel"]
    power = heard[:, 20:140].sum((1, 2))
    np.testing.assert_allclose(power / power[0], [1, 9, 25], rtol=0.02)


def test_a_row_has_unit_length_and_does_not_see_the_others(binder):
    inputs = rows(binder)
    binder.model.train()
    made = binder.embed(binder.model, "audio", inputs)
    assert made.shape == (3, binder.dim)
    torch.testing.assert_close(made.norm(dim=1), torch.ones(3))
    assert (made[0] - made[1]).abs().max() > 1e-4
    alone = binder.embed(binder.model, "audio", {k: v[:1] for k, v in inputs.items()})
    torch.testing.assert_close(alone[0], made[0], atol=1e-6, rtol=0)


@pytest.mark.parametrize("k", [0, 1, 3])
def test_a_cut_tower_is_the_whole_one(binder, k):
    inputs, tower = rows(binder), binder.towers["audio"]
    before = tower.early(binder.model, inputs, k)
    torch.testing.assert_close(tower.late(binder.model, before, k), binder.embed(binder.model, "audio", inputs))
    assert tower.late(binder.model, torch.zeros_like(before), k).isfinite().all()


def test_gradients_of_persons_are_those_of_one_at_a_time(binder):
    targets = _targets(binder, ["audio"], Lora(rank=2))
    assert targets == [
        *(f"audio.layers.{i}.inputs" for i in range(3)),
        "audio.linear",
    ]  # nothing that runs frame by frame
    model = adapted(binder.model, targets)
    inputs = {k: v.double() for k, v in rows(binder).items()}
    away = torch.randn(binder.dim, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert_the_same(
        model, lambda keep: binder.embed(model, "audio", {k: v[keep] for k, v in inputs.items()}) @ away,
        torch.tensor([0, 1, 0]),
    )  # fmt: skip


def test_late_layers_alone(binder):
    assert _targets(binder, ["audio"], Lora(rank=2, layers=1)) == ["audio.layers.2.inputs"]


def damaged(change):
    state = published()
    change(state)
    return {"model_state": state}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (damaged(lambda s: s.pop("lstm.weight_hh_l1")), "lstm.weight_hh_l1 missing or misshapen"),
        (damaged(lambda s: s.update({"linear.bias": torch.zeros(3)})), "linear.bias missing or misshapen"),
        ({"weights": {}}, "cannot be read"),
        ({"model_state": {"lstm.weight_ih_l0": print}}, "cannot be read"),
        (None, "cannot be read"),
    ],
)
def test_weights_that_do_not_fit(tmp_path, content, says):
    path = tmp_path / "given.pt"
    if content is None:
        path.write_bytes(b"not a checkpoint")
    else:
        torch.save(content, path)
    model = ge2e.encoder(16)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(MienError, match=says):
        ge2e.fill(model, path)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda b: b.towers["audio"].prepare("words"), "takes a signal, not str"),
        (lambda b: ge2e.load(ge2e.Config()), "run `mien assets fetch resemblyzer`"),
        (
            lambda b: b.towers["audio"].prepare(
                Signal(values=np.zeros((9, 6)), rate_hz=16_000.0, channels=tuple("abcdef"), unit="")
            ),
            "name those of 5.1",
        ),
    ],
)
def test_bad_input(binder, home, call, says):
    with pytest.raises(MienError, match=says):
        call(binder)


def test_nothing_measured_is_absent(binder):
    gone = Signal(
        values=np.zeros((16_000, 1)), rate_hz=16_000.0, channels=("a",), unit="", valid=np.zeros(16_000, bool)
    )
    with pytest.raises(Absent):
        binder.towers["audio"].prepare(gone)


@pytest.mark.slow
@pytest.mark.skipif(not fetched(ge2e.PART), reason="needs `mien assets fetch resemblyzer`")
def test_the_real_weights_know_a_voice_again():
    binder = ge2e.load(ge2e.Config())
    assert (binder.dim, binder.identity) == (256, "mien-assets/resemblyzer")
    assert sum(p.numel() for p in binder.model.parameters()) == 1_423_616
    assert assets.verify(ge2e.PART)
    config = life.Config(persons=4, sessions=2, seconds=10, streams=("voice",), session_jitter=0.1)
    spoken = [life.record(x, config).streams["voice"] for p in range(4) for x in life.lives(config, p)]
    found = binder.embed(binder.model, "audio", collate([binder.towers["audio"].prepare(s) for s in spoken]))
    near = (found @ found.T).reshape(4, 2, 4, 2)[:, 0, :, 1]  # the first session of each against the second of each
    assert (near.argmax(1) == torch.arange(4)).sum() >= 3
