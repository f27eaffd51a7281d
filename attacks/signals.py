"""What a membership attack sees: per window, cached numbers joined by id. No model in sight."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ..core.errors import MienError
from ..core.scores import Scores, Unit
from ..data.features import WindowTable

_COLUMNS = ("recording", "person", "member", "label", "n_tokens", "loss", "loss_base")
_FORMAT = "1"


@dataclass(frozen=True, kw_only=True)
class Signals:
    """Windows of members and non-members, row by row.

    recording, person, label: str[n]; member: bool[n]; n_tokens: int64[n]; loss: float64[n], mean negative
    log-likelihood per token (nats) under the target; loss_base: the same under the frozen base (adapter off);
    features: float64[n, d], model-free numbers for the blind attack (NaN = missing), never stored on disk;
    made_with: hash of the run whose adapter gave the losses. loss, loss_base and features may be None where
    no attack needs them.
    """

    recording: np.ndarray
    person: np.ndarray
    member: np.ndarray
    label: np.ndarray
    n_tokens: np.ndarray
    made_with: str
    loss: np.ndarray | None = None
    loss_base: np.ndarray | None = None
    features: np.ndarray | None = None

    def __post_init__(self) -> None:
        n = len(self.recording)
        if n == 0:
            raise MienError("signals without a single window; check the split and the recipe's window length")
        if np.asarray(self.member).dtype != bool:
            raise MienError("`member` must be true or false per window")
        for name in ("recording", "person", "label"):
            object.__setattr__(self, name, np.asarray([str(v) for v in getattr(self, name)], dtype=object))
        object.__setattr__(self, "member", np.asarray(self.member))
        object.__setattr__(self, "n_tokens", np.asarray(self.n_tokens, dtype=np.int64))
        for name in ("loss", "loss_base", "features"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, np.asarray(getattr(self, name), dtype=np.float64))
        for name in _COLUMNS:
            value = getattr(self, name)
            if value is not None and value.shape != (n,):
                raise MienError(f"signals: {name!r} has shape {list(value.shape)} and there are {n} windows")
        if self.features is not None and (self.features.ndim != 2 or len(self.features) != n):
            raise MienError(f"signals: features have shape {list(self.features.shape)}, not [{n}, d]")
        for name in ("loss", "loss_base"):
            value = getattr(self, name)
            bad = 0 if value is None else int((~np.isfinite(value)).sum())
            if bad:
                raise MienError(
                    f"signals: {bad} of {n} values of {name!r} are NaN or infinite; check the model's losses"
                )
        if self.features is not None and np.isinf(self.features).any():
            raise MienError("signals: infinite features; mark what is missing with NaN")

    def __len__(self) -> int:
        return len(self.recording)

    def needs(self, names: Sequence[str]) -> None:
        """MienError when an attack's NEEDS are not here."""
        for name in names:
            if getattr(self, name) is None:
                raise MienError(f"this attack needs {name!r}, which these signals lack; compute it before the attack")

    def check(self, made_with: str) -> None:
        """MienError when the signals were made with another adapter than the one under attack."""
        if self.made_with != made_with:
            raise MienError(
                f"these signals were made with adapter {self.made_with!r}, not {made_with!r}; make them"
                f" again for this one"
            )

    def with_table(self, table: WindowTable) -> Signals:
        """These signals with the blind attack's features: statistics, metadata and label of the same windows.

        table: the windows of the same cohort, in the same order and number; MienError otherwise.
        """
        same = len(table) == len(self) and all(
            np.array_equal(getattr(self, name), np.asarray([str(v) for v in getattr(table, name)], dtype=object))
            for name in ("recording", "person", "label")
        )
        if not same:
            raise MienError(
                f"the table's {len(table)} windows are not the {len(self)} windows of the signals; make"
                f" both with the"
                " same seconds, stride and order"
            )
        classes = np.unique(self.label)
        label = (self.label[:, None] == classes[None, :]).astype(np.float64)
        return replace(self, features=np.hstack([table.X, table.meta, label]))

    def write(self, path: Path) -> None:
        """One parquet file (for a run's private half), whole or not at all; features are left out."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        columns = {c: getattr(self, c) for c in _COLUMNS if getattr(self, c) is not None}
        texts = ("recording", "person", "label")
        table = pa.table({c: pa.array(v, pa.string()) if c in texts else pa.array(v) for c, v in columns.items()})
        table = table.replace_schema_metadata({"made_with": self.made_with, "mien_signals": _FORMAT})
        path = Path(path)
        part = path.with_name(f".{path.name}.{os.getpid()}.partial")
        try:
            pq.write_table(table, part)
            os.replace(part, path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise

    @staticmethod
    def read(path: Path, made_with: str | None = None) -> Signals:
        """Signals from `write`; with `made_with`, those of another adapter are refused."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            table = pq.read_table(path)
        except FileNotFoundError:
            raise MienError(f"no signals at {path}; run the attack recipe to make them") from None
        except pa.ArrowInvalid:
            raise MienError(f"{path} is not a readable parquet file; make the signals again") from None
        notes = table.schema.metadata or {}
        if notes.get(b"mien_signals", b"").decode() != _FORMAT or b"made_with" not in notes:
            raise MienError(f"{path} does not say which adapter made it; make the signals again")
        found = {c: table.column(c).to_numpy(zero_copy_only=False) for c in _COLUMNS if c in table.column_names}
        missing = {"recording", "person", "member", "label", "n_tokens"} - set(found)
        if missing:
            raise MienError(f"{path} lacks the columns {sorted(missing)}; make the signals again")
        signals = Signals(made_with=notes[b"made_with"].decode(), **found)
        if made_with is not None:
            signals.check(made_with)
        return signals


def pool(
    signals: Signals, values: np.ndarray, unit: Unit, *, attack: str = "", allow_shared_persons: bool = False
) -> Scores:
    """Window values as scores of windows, recordings (mean of windows) or persons (mean of *recording*
    means).

    values: float[n], larger = member. A person's long recordings weigh no more than the short ones. MienError
    when a recording (or, for persons, a person) is on both sides: a mean over both has no membership.
    """
    values = np.asarray(values, dtype=np.float64)
    if values.shape != (len(signals),):
        raise MienError(f"{values.shape} values for {len(signals)} windows; an attack scores every window")
    names, first, who = np.unique(signals.recording, return_index=True, return_inverse=True)
    person, member = signals.person[first], signals.member[first]
    if (signals.person != person[who]).any():
        raise MienError("a recording belongs to two persons; recording ids must be unique across persons")
    if unit == "window":
        order = np.argsort(who, kind="stable")
        place = np.empty(len(who), dtype=np.int64)
        place[order] = np.arange(len(who)) - np.searchsorted(who[order], who[order])
        ids = np.array([f"{r}#{k}" for r, k in zip(signals.recording, place, strict=True)], dtype=object)
        rows = (ids, signals.person, signals.member, values)
    else:
        if (signals.member != member[who]).any():
            raise MienError(f"a recording holds member and non-member windows; {unit}s have no membership, use windows")
        means = np.bincount(who, values) / np.bincount(who)
        rows = (names, person, member, means)
        if unit == "person":
            people, start, whose = np.unique(person, return_index=True, return_inverse=True)
            if (member != member[start][whose]).any():
                raise MienError("a person has member and non-member recordings and so no membership; use recordings")
            rows = (people, people, member[start], np.bincount(whose, means) / np.bincount(whose))
    ids, persons, member, score = rows
    return Scores(
        ids=ids,
        persons=persons,
        member=member,
        score=score,
        attack=attack,
        unit=unit,
        allow_shared_persons=allow_shared_persons,
    )
