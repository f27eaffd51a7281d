"""What a membership attack sees: per window, cached numbers joined by id. No model in sight.

Made once for an adapter (recipes/attack.py) and kept in the run's private half: one row per window in
`signals.parquet`, and per predicted token in `tokens.parquet`, which is read a part at a time. Any number of attacks
is then arithmetic on these files.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..core.errors import MienError
from ..core.scores import Scores, Unit
from ..data.features import WindowTable

_FORMAT = "2"
_TEXTS = ("recording", "person", "label")
RENYI = (0.5, 1.0, 2.0, float("inf"))  # orders of the entropies kept per token


# of the optional fields: their axes (n windows, K shadows, others free) and type; those that never go to disk
_AXES: dict[str, tuple[str, Any]] = {
    "loss": ("n", np.float64),
    "loss_base": ("n", np.float64),
    "features": ("n d", np.float64),
    "segments": ("n s", np.float64),
    "slope": ("n", np.float64),
    "zlib": ("n", np.int64),
    "evidence": ("n", np.float64),
    "reconstruction": ("n", np.float64),
    "fresh": ("n", bool),
    "shadow_in": ("k n", bool),
    "shadow_loss": ("k n", np.float64),
    "shadow_segments": ("k n s", np.float64),
    "contrast": ("n q", np.float64),
    "shadow_contrast": ("k n q", np.float64),
    "cosine": ("n v", np.float64),
    "views": ("n v w", np.float64),
    "chosen": ("n", np.float64),
    "rejected": ("n", np.float64),
    "chosen_base": ("n", np.float64),
    "rejected_base": ("n", np.float64),
}
_MEMORY_ONLY = ("features", "cosine", "views")


@dataclass(frozen=True, kw_only=True)
class Tokens:
    """Per predicted token, ragged: window i (counted from `first`) owns the rows offsets[i] to offsets[i + 1].

    logp, logp_base: float32, nats, under the target and the frozen base; mean, sd: float32, of log p over the
    vocabulary at that position, in expectation under the target (Min-K++); top: bool, the token was the target's
    likeliest; entropy: float16[tokens, 4], Rényi entropies of the orders RENYI, nats; part: int8, index into Signals.parts.
    """

    first: int
    offsets: np.ndarray
    logp: np.ndarray
    logp_base: np.ndarray
    mean: np.ndarray
    sd: np.ndarray
    top: np.ndarray
    entropy: np.ndarray
    part: np.ndarray

    def windows(self) -> Iterator[tuple[int, slice]]:
        """(window, its rows here)."""
        for i in range(len(self.offsets) - 1):
            yield self.first + i, slice(int(self.offsets[i]), int(self.offsets[i + 1]))


_TOKEN_KINDS = {"logp": np.float32, "logp_base": np.float32, "mean": np.float32, "sd": np.float32, "top": bool,
                "entropy": np.float16, "part": np.int8}  # fmt: skip


class TokenFile:
    """Token signals on disk, a part (row group) at a time: constant memory however many windows."""

    def __init__(self, path: Path):
        self.path = Path(path)

    def __iter__(self) -> Iterator[Tokens]:
        import pyarrow.parquet as pq

        try:
            file = pq.ParquetFile(self.path)
        except FileNotFoundError:
            raise MienError(f"no token signals at {self.path}; run the attack recipe with --fresh") from None
        first = 0
        for i in range(file.num_row_groups):
            table = file.read_row_group(i)
            column = table.column("logp").combine_chunks()
            offsets = np.asarray(column.offsets, dtype=np.int64)
            values = {}
            for name, kind in _TOKEN_KINDS.items():
                flat = np.asarray(table.column(name).combine_chunks().flatten().to_numpy(zero_copy_only=False))
                values[name] = flat.astype(kind).reshape(-1, len(RENYI)) if name == "entropy" else flat.astype(kind)
            yield Tokens(first=first, offsets=offsets - offsets[0], **values)
            first += len(table)


class TokenWriter:
    """Writes token signals part by part; the file appears whole when the block ends, or not at all."""

    def __init__(self, path: Path):
        self.path, self.part = Path(path), Path(path).with_name(f".{Path(path).name}.{os.getpid()}.partial")
        self._writer: Any = None

    def __enter__(self) -> TokenWriter:
        return self

    def add(self, **tokens: Any) -> None:
        """One part: the fields of Tokens."""
        self._write(Tokens(**tokens))

    def _write(self, tokens: Tokens) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        offsets = pa.array(tokens.offsets.astype(np.int32))
        columns = {}
        for name, kind in _TOKEN_KINDS.items():
            value = np.asarray(getattr(tokens, name), dtype=kind)
            if not np.isfinite(value.astype(np.float64)).all():
                raise MienError(f"token signals: {name!r} holds NaN or infinite values; check the model's losses")
            at = pa.array(tokens.offsets.astype(np.int32) * len(RENYI)) if name == "entropy" else offsets
            columns[name] = pa.ListArray.from_arrays(at, pa.array(value.ravel()))
        table = pa.table(columns)
        if self._writer is None:
            self._writer = pq.ParquetWriter(self.part, table.schema)
        self._writer.write_table(table)

    def __exit__(self, kind: Any, *rest: Any) -> None:
        if self._writer is not None:
            self._writer.close()
        if kind is None and self._writer is not None:
            os.replace(self.part, self.path)
        else:
            self.part.unlink(missing_ok=True)


@dataclass(frozen=True, kw_only=True)
class Signals:
    """Windows of members and non-members, row by row.

    recording, person, label: str[n]; member: bool[n]; n_tokens: int64[n]; made_with: hash of the run whose adapter
    gave the losses. Everything else may be None where no attack needs it, and is float64 unless said otherwise:

    loss[n]: mean negative log-likelihood per token (nats) under the target; loss_base[n]: the same under the frozen
    base (adapter off); segments[n, S]: the target's mean log p in S consecutive parts of the window; slope[n]: how
    fast the loss falls when the adapter's weight update is scaled up (gradient access); zlib[n]: bytes of the
    compressed tokens; fresh[n]: bool, a recording that was kept out of training (of a member's, or chosen in the same
    way of a non-member's); features[n, d]: model-free numbers for the blind attack (NaN = missing), never on disk.

    Autoencoders (of whose windows n_tokens counts the numbers, and whose loss is the training objective): evidence[n], log p
    of the window, and reconstruction[n], log p of it given its own posterior, in nats per number.

    Shadow models: shadow_in[K, n] bool, whether the window's person was in shadow k's training data; shadow_loss
    [K, n]; shadow_segments[K, n, S].

    Encoders: contrast[n, Q]: each view's log-odds of its own pair among a fixed bank (attacks/contrast.py), view 0
    unaugmented, with shadow_contrast[K, n, Q]; cosine[n, Q]: similarities of the pairs; views[n, Q, d]: embeddings
    of Q augmented views, with cosine and views never on disk.

    Preferences: chosen, rejected[n]: log-likelihood of the two answers under the policy; chosen_base, rejected_base.

    tokens: token signals, in the order of the windows; parts: what Tokens.part counts (streams; or image, instruction,
    description).
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
    segments: np.ndarray | None = None
    slope: np.ndarray | None = None
    zlib: np.ndarray | None = None
    evidence: np.ndarray | None = None
    reconstruction: np.ndarray | None = None
    fresh: np.ndarray | None = None
    shadow_in: np.ndarray | None = None
    shadow_loss: np.ndarray | None = None
    shadow_segments: np.ndarray | None = None
    contrast: np.ndarray | None = None
    shadow_contrast: np.ndarray | None = None
    cosine: np.ndarray | None = None
    views: np.ndarray | None = None
    chosen: np.ndarray | None = None
    rejected: np.ndarray | None = None
    chosen_base: np.ndarray | None = None
    rejected_base: np.ndarray | None = None
    tokens: Sequence[Tokens] | TokenFile | None = None
    parts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        n = len(self.recording)
        if n == 0:
            raise MienError("signals without a single window; check the split and the recipe's window length")
        if np.asarray(self.member).dtype != bool:
            raise MienError("`member` must be true or false per window")
        for name in _TEXTS:
            object.__setattr__(self, name, np.asarray([str(v) for v in getattr(self, name)], dtype=object))
        object.__setattr__(self, "member", np.asarray(self.member))
        object.__setattr__(self, "n_tokens", np.asarray(self.n_tokens, dtype=np.int64))
        for name in ("recording", "person", "member", "label", "n_tokens"):
            if (shape := getattr(self, name).shape) != (n,):
                raise MienError(f"signals: {name!r} has shape {list(shape)} and there are {n} windows")
        sizes = {"n": n}
        for name, (shape, kind) in _AXES.items():
            value = getattr(self, name)
            if value is None:
                continue
            if kind is bool and np.asarray(value).dtype != bool:
                raise MienError(f"signals: {name!r} must be true or false")
            value = np.asarray(value, dtype=kind)
            object.__setattr__(self, name, value)
            axes = shape.split()
            if value.ndim != len(axes) or any(
                sizes.setdefault(a, k) != k for a, k in zip(axes, value.shape, strict=True)
            ):
                if name == "features":
                    raise MienError(f"signals: features have shape {list(value.shape)}, not [{n}, d]")
                wanted = ", ".join(str(sizes.get(a, a)) for a in axes)
                raise MienError(
                    f"signals: {name!r} has shape {list(value.shape)}, not [{wanted}]; there are {n} windows"
                )
            if name == "features":
                if np.isinf(value).any():
                    raise MienError("signals: infinite features; mark what is missing with NaN")
            elif bad := int((~np.isfinite(value)).sum()):
                raise MienError(
                    f"signals: {bad} of {value.size} values of {name!r} are NaN or infinite; check the model's losses"
                )
        if self.shadow_in is not None:
            self._check_shadows()

    def _check_shadows(self) -> None:
        assert self.shadow_in is not None
        for k, inside in enumerate(self.shadow_in):
            if set(self.person[inside]) & set(self.person[~inside]):
                raise MienError(
                    f"shadow {k} has a person on both sides; shadows are drawn by person, or siblings give them away"
                )

    def __len__(self) -> int:
        return len(self.recording)

    def needs(self, names: Sequence[str]) -> None:
        """MienError when an attack's NEEDS are not here."""
        for name in names:
            if getattr(self, name) is None:
                way = (
                    "train shadow models (--profile full)"
                    if name.startswith("shadow_")
                    else "compute it before the attack"
                )
                raise MienError(f"this attack needs {name!r}, which these signals lack; {way}")

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
        """One parquet file (for a run's private half), whole or not at all; features and tokens are left out."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        columns = {c: pa.array(getattr(self, c), pa.string()) for c in _TEXTS}
        columns |= {"member": pa.array(self.member), "n_tokens": pa.array(self.n_tokens)}
        shapes = {}
        for name, (axes, _) in _AXES.items():
            value = getattr(self, name)
            if value is None or name in _MEMORY_ONLY:
                continue
            rows = np.moveaxis(value, 0, 1) if axes.startswith("k") else value
            if rows.ndim == 1:
                columns[name] = pa.array(rows)
            else:
                shapes[name] = ",".join(map(str, rows.shape[1:]))
                flat = pa.array(np.ascontiguousarray(rows).reshape(-1))
                columns[name] = pa.FixedSizeListArray.from_arrays(flat, int(np.prod(rows.shape[1:])))
        notes = {"made_with": self.made_with, "mien_signals": _FORMAT, "parts": "\n".join(self.parts)} | {
            f"shape.{k}": v for k, v in shapes.items()
        }
        table = pa.table(columns).replace_schema_metadata(notes)
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
        """Signals from `write`; with `made_with`, those of another adapter are refused. `tokens.parquet` beside the
        file, if there is one, becomes `tokens`."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            table = pq.read_table(path)
        except FileNotFoundError:
            raise MienError(f"no signals at {path}; run the attack recipe to make them") from None
        except pa.ArrowInvalid:
            raise MienError(f"{path} is not a readable parquet file; make the signals again") from None
        notes = {k.decode(): v.decode() for k, v in (table.schema.metadata or {}).items()}
        if notes.get("mien_signals") != _FORMAT or "made_with" not in notes:
            raise MienError(f"{path} does not say which adapter made it; make the signals again")
        found: dict[str, Any] = {}
        for c in table.column_names:
            column = table.column(c).combine_chunks()
            if f"shape.{c}" not in notes:
                found[c] = column.to_numpy(zero_copy_only=False)
                continue
            inner = [int(v) for v in notes[f"shape.{c}"].split(",")]
            value = np.asarray(column.flatten().to_numpy(zero_copy_only=False)).reshape(len(table), *inner)
            shadow = c.startswith("shadow_")
            found[c] = np.moveaxis(value, 1, 0) if shadow else value
        missing = {*_TEXTS, "member", "n_tokens"} - set(found)
        if missing:
            raise MienError(f"{path} lacks the columns {sorted(missing)}; make the signals again")
        beside = Path(path).with_name("tokens.parquet")
        tokens = TokenFile(beside) if beside.exists() else None
        parts = tuple(notes["parts"].split("\n")) if notes.get("parts") else ()
        signals = Signals(made_with=notes["made_with"], tokens=tokens, parts=parts, **found)
        if made_with is not None:
            signals.check(made_with)
        return signals

    def rows(self, keep: np.ndarray) -> Signals:
        """The windows where the boolean array `keep` says so; token signals are dropped."""
        changes: dict[str, Any] = {c: getattr(self, c)[keep] for c in (*_TEXTS, "member", "n_tokens")}
        for name, (axes, _) in _AXES.items():
            if (value := getattr(self, name)) is not None:
                changes[name] = value[:, keep] if axes.startswith("k") else value[keep]
        return replace(self, tokens=None, **changes)


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
