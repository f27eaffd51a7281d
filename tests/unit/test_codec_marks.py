"""The codecs of events and of text: exact, bounded, total; nothing that names anybody can be said."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mien.core.config import Plugin
from mien.core.errors import MienError
from mien.core.records import CohortCard, Events, StreamSpec, Text
from mien.generation.codecs import events, text
from mien.generation.grammar import DEAD, Grammar
from mien.generation.layout import Layout
from mien.generation.machine import OWN
from mien.generation.numbers import Numbers
from mien.generation.scrub import scrub
from mien.generation.vocabulary import BOS, EOS, FIRST_CODEC, LABEL_0, STREAM_0

F = FIRST_CODEC
CALLS = {"calls": StreamSpec(channels=("in", "out", "missed"), kind="events")}
DIARY = {"diary": StreamSpec(channels=("participant", "interviewer"), kind="text")}


def grammar_of(codec, module) -> Grammar:
    return Grammar.of(classes=1, blocks=[(codec.machine, F)], size=F + sum(module.TOKENS.values()))


def accepts(grammar: Grammar, block: np.ndarray) -> bool:
    return grammar.accepts([BOS, LABEL_0, STREAM_0, *np.where(block >= OWN, block, block + F), EOS])


# --- numbers ----------------------------------------------------------------------------------------------
@given(value=st.integers(0, 5_000_000), most=st.integers(0, 5_000_000))
@settings(max_examples=200, deadline=None)
def test_numbers_come_back_and_small_ones_are_short(value, most):
    code = Numbers(most, 7, 900)
    if value > most:
        with pytest.raises(ValueError, match="not between"):
            code.encode(value)
        return
    ids = code.encode(value)
    assert code.read(np.array([99, *ids, 99]), 1) == (value, 1 + len(ids))
    assert len(ids) == max(1, len(np.base_repr(value, 32)))
    assert most <= code.top < max(1, 32 * max(1, most))


# --- events -----------------------------------------------------------------------------------------------
@st.composite
def logs(draw, seconds=3600):
    n = draw(st.integers(0, 12))
    times = sorted(draw(st.lists(st.integers(0, seconds - 1), min_size=n, max_size=n)))
    return Events(
        times_s=times, durations_s=draw(st.lists(st.integers(0, 86400), min_size=n, max_size=n)),
        codes=draw(st.lists(st.integers(0, 2), min_size=n, max_size=n)),
        party=draw(st.lists(st.integers(-1, 9), min_size=n, max_size=n)), kinds=CALLS["calls"].channels, seconds=seconds,
    )  # fmt: skip


HOUR = events.Codec(events.Config(most=12), CALLS, 3600.0)
HOURS = grammar_of(HOUR, events)


@given(log=logs())
@settings(max_examples=80, deadline=None)
def test_logs_of_whole_seconds_come_back_exactly(log):
    (block,) = HOUR.encode([{"calls": log}])
    assert accepts(HOURS, block)
    back = HOUR.decode(block)["calls"]
    for name in ("times_s", "durations_s", "codes"):
        assert np.array_equal(getattr(back, name), getattr(log, name)), name
    # parties keep who is the same and who is nobody, and lose who it is
    assert np.array_equal(back.party < 0, log.party < 0)
    for (a, b), (c, d) in zip(pairwise(log.party), pairwise(back.party), strict=True):
        assert (a == b) == (c == d)
    assert [p for p in dict.fromkeys(back.party.tolist()) if p >= 0] == list(range(len(set(log.party) - {-1})))


@pytest.mark.parametrize("seconds", [60.0, 86400.0, 28 * 86400.0])
def test_every_walk_ends_within_the_window(seconds):
    codec = events.Codec(events.Config(most=20), CALLS, seconds)
    grammar = grammar_of(codec, events)
    rng = np.random.default_rng(0)
    for _ in range(40):
        state, block = grammar.states(np.array([[BOS, LABEL_0, STREAM_0]]))[:, -1], []
        while EOS not in (allowed := np.flatnonzero(grammar.allowed(state[0]))):
            # an adversary who says long gaps and never ends while there is something else to say
            token = int(rng.choice(allowed[1:] if len(allowed) > 1 and rng.random() < 0.95 else allowed))
            state = grammar.step(state, np.array([token]))
            block.append(token - F)
        assert len(block) <= codec.machine.length
        back = codec.decode(np.array(block))["calls"]
        assert len(back.times_s) <= 20
        assert (back.times_s < seconds).all()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            {"times_s": np.arange(13.0), "durations_s": np.zeros(13), "codes": np.zeros(13), "party": None},
            "more than 12 events",
        ),
        ({"durations_s": [90000.0]}, "more than 24 h"),
        ({"seconds": 1800.0}, "observed for less than the window"),
    ],
)
def test_logs_that_cannot_be_said_are_refused_with_a_reason(change, says):
    fields = {"times_s": [1.0], "durations_s": [1.0], "codes": [0], "kinds": ("in", "out", "missed"), "seconds": 3600.0}
    log = Events(**(fields | change))
    (why,) = HOUR.encode([{"calls": log}])
    assert isinstance(why, str)
    assert says in why


@pytest.mark.parametrize("last", [3599.9, 3600.0, 5000.0])
def test_what_begins_at_the_windows_end_is_left_to_the_next_one(last):
    log = Events(
        times_s=[60.0, last], durations_s=[1.0, 1.0], codes=[0, 0], kinds=CALLS["calls"].channels, seconds=max(3600.0, last)
    )  # fmt: skip
    (block,) = HOUR.encode([{"calls": log}])
    assert accepts(HOURS, block)
    assert HOUR.decode(block)["calls"].times_s.tolist() == ([60.0, 3599.0] if last < 3600 else [60.0])


def test_fractions_of_seconds_are_floored_and_many_parties_share_a_slot():
    n = 12
    codec = events.Codec(events.Config(most=40), CALLS, 3600.0)
    log = Events(
        times_s=np.arange(40) + 0.9, durations_s=np.full(40, 1.6), codes=np.zeros(40), party=np.arange(40) + 7,
        kinds=("in", "out", "missed"), seconds=3600.0,
    )  # fmt: skip
    back = codec.decode(codec.encode([{"calls": log}])[0])["calls"]
    assert back.times_s[:n].tolist() == list(range(n))
    assert (back.durations_s == 2).all()
    assert back.party.tolist() == [*range(15), *[15] * 25]


def test_the_vocabulary_of_events_has_no_place_for_a_number_or_a_name():
    assert set(events.TOKENS) == {"end", "kind", "lead", "digit", "party"}
    logs = [
        Events(
            times_s=[5.0, 9.0], durations_s=[0, 0], codes=[0, 0], party=party, kinds=CALLS["calls"].channels, seconds=3600.0
        )
        for party in ([490172, 490173], [3, 2])
    ]  # fmt: skip
    a, b = HOUR.encode([{"calls": log} for log in logs])
    assert np.array_equal(a, b)


@pytest.mark.parametrize(
    ("specs", "seconds", "says"),
    [
        ({"c": StreamSpec(channels=tuple(map(str, range(40))), kind="events")}, 60.0, "room for 32"),
        (CALLS, 0.5, "1 s to 31 days"),
        (CALLS, 90 * 86400.0, "1 s to 31 days"),
    ],
)
def test_events_codec_refuses(specs, seconds, says):
    with pytest.raises(MienError, match=says):
        events.Codec(events.Config(), specs, seconds)


# --- text -------------------------------------------------------------------------------------------------
MINUTE = text.Codec(text.Config(most=60, utterances=4), DIARY, 60.0)
MINUTES = grammar_of(MINUTE, text)


def talk(*said: str, starts=None, seconds=60.0) -> Text:
    starts = list(range(len(said))) if starts is None else starts
    roles = [("participant", "interviewer")[i % 2] for i in range(len(said))]
    return Text(times_s=starts, ends_s=[t + 0.7 for t in starts], text=said, speakers=tuple(roles), seconds=seconds)


@given(said=st.lists(st.text(max_size=12), max_size=4))
@settings(max_examples=120, deadline=None)
def test_words_come_back_in_bytes(said):
    made = talk(*said)
    (block,) = MINUTE.encode([{"diary": made}])
    if isinstance(block, str):
        assert sum(map(len, made.text)) >= 60
        return
    assert accepts(MINUTES, block)
    back = MINUTE.decode(block)["diary"]
    clean = tuple(t.encode("utf-8", "replace").decode() for t in made.text)
    assert back.text == tuple(map(scrub, clean))
    assert back.speakers == made.speakers
    assert np.allclose(back.times_s, made.times_s)
    assert np.allclose(back.ends_s, made.ends_s)


@pytest.mark.parametrize(
    "word", ["\ufeffBOM", "😀👩‍👩‍👧", "שלום عليكم", "e\u0301", "\x00\x7f", "\U0010ffff", "\ud7ff\ue000"]
)
def test_unicode_comes_back(word):
    (block,) = MINUTE.encode([{"diary": talk(word)}])
    assert accepts(MINUTES, block)
    assert MINUTE.decode(block)["diary"].text == talk(word).text


CHARACTERS = st.text(max_size=3).map(lambda s: s.encode("utf-8", "replace"))


@given(raw=st.lists(st.one_of(st.binary(max_size=5), CHARACTERS), max_size=3))
@settings(max_examples=300, deadline=None)
def test_the_machine_accepts_exactly_utf8(raw):
    said = b"".join(raw)
    head = MINUTE.encode([{"diary": talk("")}])[0]
    at = int(np.argmax(head == text._SAID))
    block = np.r_[head[:at], [text._BYTE + b for b in said], head[at:]].astype(np.int64)
    try:
        good = len(said.decode("utf-8")) <= 60
    except UnicodeDecodeError:
        good = False
    assert accepts(MINUTES, block) == good


def test_text_that_cannot_be_said_is_refused_with_a_reason():
    for made, says in ((talk("x" * 60), "60 or more"), (talk(*"abcde"), "more than 4 utterances")):
        (why,) = MINUTE.encode([{"diary": made}])
        assert isinstance(why, str)
        assert says in why
    long = Text(times_s=[0.0], ends_s=[4000.0], text=("a",), speakers=("participant",), seconds=60.0)
    assert "more than an hour" in MINUTE.encode([{"diary": long}])[0]


def test_what_a_walk_says_too_late_is_not_in_the_window():
    block = MINUTE.encode([{"diary": talk("a", "b", starts=[0.0, 59.0])}])[0]
    late = int(np.argmax(block == text._SAID)) + 1
    changed = np.r_[block[:late], MINUTE.gap.encode(600), block[late + len(MINUTE.gap.encode(590)) :]]
    assert accepts(MINUTES, changed)
    assert MINUTE.decode(changed)["diary"].text == ("a",)


@pytest.fixture
def tokenizer(tmp_path):
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {"<s>": 0, "<unk>": 1, "so": 2, "tired": 3, ",": 4}
    made = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", unk_token="<unk>").save_pretrained(tmp_path / "tok")
    return str(tmp_path / "tok")


def test_words_can_be_the_bases_own_tokens(tokenizer):
    codec = text.Codec(text.Config(tokenizer=tokenizer, most=10, utterances=3), DIARY, 60.0)
    grammar = grammar_of(codec, text)
    (block,) = codec.encode([{"diary": talk("so tired , so", "tired")}])
    assert accepts(grammar, block)
    assert [i - OWN for i in block if i >= OWN] == [2, 3, 4, 2, 3]
    assert codec.decode(block)["diary"].text == ("so tired , so", "tired")
    assert codec.never == (0, 1)
    state = grammar.states(np.array([[BOS, LABEL_0, STREAM_0]]))[0, -1]
    assert not grammar.allowed(state)[-1]
    assert grammar.states(np.array([[BOS, LABEL_0, STREAM_0, OWN + 2]]))[0, -1] == DEAD
    with pytest.raises(MienError, match="cannot load the tokenizer"):
        text.Codec(text.Config(tokenizer="/nowhere"), DIARY, 60.0).encode([{"diary": talk("a")}])


def test_a_published_layout_does_not_say_where_its_tokenizer_lies(tokenizer, tmp_path):
    card = CohortCard(name="talks", licence="", consent="", streams=DIARY, tasks={"mood": ("low", "high")})
    section = {"name": "text", "streams": ["diary"], "tokenizer": tokenizer, "most": 10}
    lay = Layout.of(card, seconds=60.0, task="mood", codec=Plugin(name="transform"), codecs=(Plugin(**section),))
    lay.write(tmp_path / "layout.json")
    assert str(tmp_path) not in (tmp_path / "layout.json").read_text()
    with pytest.raises(MienError, match="the tokenizer of stream 'diary' is a local folder, 'tok'"):
        Layout.read(tmp_path / "layout.json")
    assert Layout.read(tmp_path / "layout.json", [section]).never == lay.never == (0, 1)


@pytest.mark.parametrize("said", ["12345, " * 8, "x 12345678 y " * 4, "a@b.de " * 8, "https://x.y/z " * 4])
def test_a_document_that_the_grammar_refuses_is_never_written(said):
    """What takes the place of numbers and addresses may be longer than they were."""
    made = talk(said[:59])
    (block,) = MINUTE.encode([{"diary": made}])
    if len(scrub(made.text[0])) >= 60:
        assert "60 or more" in block
    else:
        assert accepts(MINUTES, block)


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ("call me: 030 / 123 45-67 ok", "call me: [number] ok"),
        ("+49 (170) 1234567", "[number]"),
        ("anna.b+x@mail.example.org!", "[mail]!"),
        ("see https://x.y/z?q=1 or www.a.b", "see [link] or [link]"),
        ("I slept 7 hours, 2 times 1234 steps", "I slept 7 hours, 2 times 1234 steps"),
        ("im Jahr 2024", "im Jahr 2024"),
    ],
)
def test_scrubbing(said, kept):
    assert scrub(said) == kept
    (block,) = MINUTE.encode([{"diary": talk(said[:50])}])
    assert MINUTE.decode(block)["diary"].text[0] == scrub(said[:50])
