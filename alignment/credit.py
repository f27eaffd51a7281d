"""Which tokens a document's reward hangs on: what of it is to be expected once each of them is known.

A block says first, each in its own place, what the whole window is like (mean heart rate, level of skin conductance), and then
goes on beat by beat. Where a block is worth much because its heart is slow, its first token said so and the two hundred
after it are not to blame. So the share of a block is followed as it becomes known (a Doob martingale): with whether there is a
block, with each token of its opening, and with the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..generation.layout import Layout
from ..generation.machine import Machine
from ..generation.vocabulary import EOS, STREAM_0


@dataclass(frozen=True, kw_only=True)
class Step:
    """The token at place k of a block (0 is its marker): what to expect of its share, given it and those of the steps before."""

    k: int
    centre: float
    scale: float
    w: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Expected:
    """mean: of the share of the blocks it was learned from; steps: those tokens of the opening that say more of it."""

    mean: float
    steps: tuple[Step, ...] = ()

    def known(self, block: np.ndarray) -> list[tuple[int, float]]:
        """(place, expected share from there on) of a block int32[T] with its marker."""
        out, row = [(0, self.mean)], [1.0]
        for s in self.steps:
            row += _bent((float(block[s.k]) - s.centre) / s.scale).tolist()
            out.append((s.k, float(np.dot(row, s.w))))
        return out


def learn(blocks: Sequence[np.ndarray], share: np.ndarray, machine: Machine) -> tuple[Expected, np.ndarray]:
    """What the openings of blocks (of one part and one label, with their markers) say of their share float64[n]; and
    float64[1 + steps, n]: their mean, and step by step what a ridge on all others expects of each block's share.

    A token is a number (and its square, and its size: both ends may be bad). It is a step where the blocks that are left out are
    expected better with it, by more than two standard errors of that: among fifty tokens some would seem to say something."""
    known, columns = np.full(len(share), share.mean()), np.ones((len(share), 1))
    steps: list[Step] = []
    out = [known]
    for k in range(1, 1 + opening(machine)) if len(share) > 2 else ():
        x = np.array([float(b[k]) for b in blocks])
        if not x.std() > 0:
            continue
        wider = np.concatenate([columns, _bent((x - x.mean()) / x.std()).T], axis=1)
        w, better = _ridge(wider, share)
        gained = (share - known) ** 2 - (share - better) ** 2
        if gained.sum() > 2 * len(gained) ** 0.5 * gained.std():
            steps.append(Step(k=k, centre=float(x.mean()), scale=float(x.std()), w=w))
            known, columns = better, wider
            out.append(known)
    return Expected(mean=float(share.mean()), steps=tuple(steps)), np.array(out)


def opening(machine: Machine) -> int:
    """How many tokens open every block of it, each in its own place: as far as nothing may be left away or comes again."""
    to = [{t for node, _, _, t in machine.arcs if node == k} for k in range(machine.nodes)]
    node, count = 0, 0
    while node < machine.nodes and node not in machine.gates and sum(node in after for after in to) == (node > 0):
        count += 1
        if len(to[node]) > 1:
            break
        (node,) = to[node]
    return count


def split(doc: np.ndarray, layout: Layout) -> dict[int, np.ndarray]:
    """Part's index -> its block with the marker in front, as it stands in the document."""
    made = layout.made(doc)
    ends = np.flatnonzero((made >= STREAM_0) & (made < STREAM_0 + len(layout.parts)))
    return {int(b[0]) - STREAM_0: b for b in np.split(made, ends) if len(b)}


def begin(doc: np.ndarray, part: int, layout: Layout) -> int:
    """Where a part's block begins in the document int32[T], or would."""
    first = len(doc) - len(layout.made(doc)) - 1
    later = (doc[first:] >= STREAM_0 + part) & (doc[first:] < STREAM_0 + len(layout.parts)) | (doc[first:] == EOS)
    return first + int(np.flatnonzero(later)[0])


def _bent(z: np.ndarray | float) -> np.ndarray:
    """float64[3, ...]: a standardised number, its square and its size."""
    return np.array([z, np.square(z) - 1, np.abs(z)])


def _ridge(x: np.ndarray, y: np.ndarray, l2: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """(weights float64[d], with a free first column; float64[n]: what all others expect of each, in closed form: Allen 1974,
    Technometrics 16:125)."""
    solve = np.linalg.solve(x.T @ x + l2 * np.diag([0.0, *np.ones(x.shape[1] - 1)]), x.T)
    w, at = solve @ y, np.einsum("ij,ji->i", x, solve)
    return w, y - (y - x @ w) / np.maximum(1 - at, 1e-9)
