"""Published divisions of a database, as their authors hand them out: does a person sit on two sides of one?

Read are a csv with a column id or person and a column fold or split; EmoBox's folders (`fold_1/cremad_train_fold_1.jsonl`
…); and sets of tables named after their side (MELD's `train_sent_emo.csv`, `dev_…`, `test_…`, with a column Speaker).
"""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from ..core.errors import MienError
from . import sources
from .check import Finding

_SPEAKERS, _CLIPS = ("person", "speaker", "Speaker"), ("id", "name", "wav", "key")
_SIDE = re.compile(r"(?:^|_)(train|dev|valid|val|test)(?=_|$)")
# whose clip it is, where the database's file names say so: CREMA-D, RAVDESS
_ACTOR = re.compile(r"(1\d{3})_[A-Z]{3}_[A-Z]{3}_(?:LO|MD|HI|XX)|0[123](?:-\d\d){5}-(\d\d)")


@dataclass(frozen=True, kw_only=True)
class Row:
    """One recording of a division. by_person: whether `key` names the person, or the recording."""

    key: str
    by_person: bool
    fold: str
    side: str


def is_division(place: Path) -> bool:
    """Whether a folder holds tables named after their side, or a file is one."""
    return bool(_tables(place)) if place.is_dir() else place.is_file() and place.suffix in (".csv", ".jsonl")


def overlap(place: Path, known: Mapping[bool, Mapping[str, str]] | None = None) -> Iterator[Finding]:
    """Persons on two sides of a division. known: whether by person, then how a row may name one -> the cohort's person;
    without it a person is what the row, or the clip's name, says. MienError naming the file that cannot be read."""
    rows = read(place)
    sides: dict[str, dict[str, Counter[str]]] = defaultdict(lambda: defaultdict(Counter))
    unknown = []
    for row in rows:
        if (person := _whose(row, known)) is None:
            unknown.append(row)
        else:
            sides[row.fold][row.side][person] += 1
    if known is None and unknown:
        raise MienError(
            f"{place}: it does not say whose recording {unknown[0].key!r} is; check it with the database:"
            f" mien data check NAME root=… folds={place}"
        )
    if unknown:
        yield Finding(
            level="warning", where=str(place), fix="are they of this cohort, and of this option of its reader?",
            problem=f"{len(unknown)} of {len(rows)} rows name no {'person' if unknown[0].by_person else 'recording'}"
            f" of the cohort, the first is {unknown[0].key!r}",
        )  # fmt: skip
    clean = True
    for fold, of in sides.items():
        for side, counts in of.items():
            if side.lower().startswith("train"):
                continue
            trained = {p for s, c in of.items() if s.lower().startswith("train") for p in c} & set(counts)
            shared = trained or set(counts) & {p for s, c in of.items() if s != side for p in c}
            if not shared:
                continue
            clean = False
            share = sum(counts[p] for p in shared) / counts.total()
            yield Finding(
                level="error", where=", ".join(x for x in (str(place), fold, side) if x),
                problem=f"{len(shared)} of {len(counts)} persons are {'in training' if trained else 'on another side'} too, with"
                f" {100 * share:.1f} % of its recordings: a result is not about new people",
                fix="divide by person (split: {kind: person}), and do not compare with numbers on these folds",
            )  # fmt: skip
    if clean and sides:
        yield Finding(level="info", where=str(place), problem="no person is on two sides of the division")


def _whose(row: Row, known: Mapping[bool, Mapping[str, str]] | None) -> str | None:
    if known is not None:
        of = known[row.by_person]
        return of.get(Path(row.key).name) or of.get(Path(row.key).stem)
    if row.by_person:
        return " ".join(row.key.casefold().split()) or None
    actor = _ACTOR.fullmatch(Path(row.key).stem)
    return actor and (actor[1] or actor[2])


def read(place: Path) -> list[Row]:
    """The rows of a csv, of a jsonl named after its side, or of a folder of such. MienError naming the file."""
    if place.is_dir():
        files = _tables(place)
        if not files:
            raise MienError(f"{place} holds no csv or jsonl named after its side, such as train_….csv and test_….csv")
        rows = [r for f in files for r in _rows(f)]
    elif place.is_file():
        rows = _rows(place)
    else:
        raise MienError(
            f"no such file: {place}; folds is a csv with a column id or person and a column fold or split, or the folder"
            " of a published division"
        )
    if len({(r.fold, r.side) for r in rows}) < 2:
        raise MienError(f"{place} holds one side of a division; give the folder, or the csv, that holds all of them")
    return rows


def _tables(folder: Path) -> list[Path]:
    """Files of one side each; a jsonl in place of a csv where both are."""
    found = [
        f for end in ("jsonl", "csv") for f in sources.find(folder, f"*.{end}") if f.is_file() and _SIDE.search(f.stem)
    ]
    return [f for f in found if f.suffix == ".jsonl"] or found


def _rows(file: Path) -> list[Row]:
    named = _SIDE.search(file.stem)
    fold = re.search(r"fold_?(\d+)", file.stem)
    side, number = named[1] if named else "", f"fold {fold[1]}" if fold else ""
    if file.suffix == ".jsonl":
        return [
            _line(text, i, file, number, side) for i, text in enumerate(_text(file).splitlines(), 1) if text.strip()
        ]
    with open(file, encoding="utf-8-sig", errors="replace") as f:
        head = f.readline()
    names = [n.strip().strip('"') for n in re.split("[,\t;]", head)]
    key = next((n for n in (*_SPEAKERS, *_CLIPS) if n in names), None)
    parts = [n for n in ("fold", "split") if n in names]
    if head.strip() and (key is None or not (parts or side)):
        raise MienError(f"{file}: it takes a column id (or person) and a column fold or split; it has {names[:8]}")
    out = []
    for cell, *of in sources.columns(file, (key or "id", *parts)):
        if len(parts) == 2:
            number, side = f"fold {of[0]}", of[1]
        elif parts:
            side = f"fold {of[0]}" if parts == ["fold"] else of[0]
        out.append(Row(key=cell, by_person=key in _SPEAKERS, fold=number, side=side))
    return out


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise MienError(f"{file} is not UTF-8 (byte {error.start}); save it as UTF-8") from None


def _line(text: str, i: int, file: Path, fold: str, side: str) -> Row:
    try:
        row = json.loads(text)
        key = next(k for k in (*_SPEAKERS, "wav", "key", "id") if isinstance(row.get(k), str))
    except (ValueError, AttributeError, StopIteration, RecursionError):
        raise MienError(f"{file}, line {i}: no JSON object with a wav, key, id or speaker; restore it") from None
    return Row(key=row[key], by_person=key in _SPEAKERS, fold=fold, side=side)
