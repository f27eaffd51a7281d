"""What an evaluate run says of itself: the report's words around its numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..core import console
from ..core.config import Plugin
from ..core.errors import MienError
from ..core.records import Cohort
from ..core.results import Report, Result, environment
from ..core.runs import Run, keyed
from ..core.verbs import PLAIN, UNCOVERED, public
from ..data import splits
from ..data.load import open_cohort
from .protocols import Inputs
from .transferred import Transferred


def of_synthetic(
    run: Run, recipe: Any, inputs: Mapping[str, str], results: Sequence[Result], guarantee: str, cohort: Cohort,
    synthetic: Cohort, data: Inputs, split: splits.Splits, asked: Mapping[str, Any], left_out: dict[str, int], attacked: bool,
) -> Report:  # fmt: skip
    """Of a synthetic cohort. recipe: the Evaluate; asked: the adapt recipe; attacked: whether an attack is
    shown beside."""
    layout_seconds, made = data.windows.seconds, "An autoencoder was trained whole on"
    if not asked.get("autoencoder"):
        backbone = asked["backbone"]
        made = f"A frozen base ({backbone.get('model', backbone['name'])}) was LoRA-adapted to"
    return Report(
        verb="evaluate", run=run.name, study=recipe.study, config=public(recipe.model_dump(mode="json")),
        summary=(
            f"{made}"
            f" recordings of {len(split.train)} persons of the cohort {cohort.card.name}, licence {cohort.card.licence};"
            f" {len(synthetic)} synthetic recordings of {layout_seconds:g} s were sampled from it. Utility is"
            f" measured on {len(data.tables.test)} windows of {len(set(data.tables.test.person))} persons."
        ),
        inputs=dict(inputs), data_fingerprint=inputs["cohort"], results=tuple(results), guarantee=guarantee,
        restrictions=tuple(dict.fromkeys((*cohort.card.restrictions, *synthetic.card.restrictions))),
        consent=left_out, environment=environment(recipe.seed),
        not_measured=(
            *(() if attacked else ("No attack was run on this adapter: its leakage is unknown, not absent.",)),
            "Whether the synthetic recordings serve any task but this one, or any other group of people.",
            "Whether rare persons are represented: coverage of outliers was not measured.",
        ),
        caveats=(
            *splits.warnings(split),
            *(() if guarantee == PLAIN else (UNCOVERED,)),
            f"Intervals are over {len(split.holdout)} held-out persons and say what other persons like these"
            " would give; one split and one seed were used, and their own spread is not in the intervals.",
        ),
    )  # fmt: skip


EXPLAINED = (
    "What a stream is worth is what learners made of it, not a cause in the world; it was computed from recordings, and no ε"
    " covers it.",
)


PERSONAL = (
    "Persons' own adapters were fitted on their first windows, asked, and thrown away; what one tells of its person, no ε covers.",
)
ELSEWHERE = (
    "Across tasks and with few labels, probes learnt on some of the held-out persons and were judged on others of them; their"
    " intervals are by bootstrap of the judged persons, or (fewer than twenty) by leaving each out.",
)


def of_representation(
    run: Run,
    recipe: Any,
    inputs: Mapping[str, str],
    results: Sequence[Result],
    adapted: Report,
    o: Any,
    there: Transferred,
) -> Report:
    """Of a representation. adapted: the adapt run's report; o: the run opened (adapters/represented.Opened); there: what it
    is worth elsewhere."""
    card, others = o.cohort.card, [c.card for c in there.cohorts]
    return Report(
        verb="evaluate", run=run.name, study=recipe.study, config=public(recipe.model_dump(mode="json")),
        summary=(
            f"{_made(o)}"
            f" recordings of {len(o.split.train)} persons of the cohort {card.name}, licence {card.licence}. Probes were fitted"
            f" on their {int(o.train.sum())} windows and judged on {int((~o.train).sum())} windows of"
            f" {len(set(o.table.person[~o.train]))} others."
        ),
        inputs=dict(inputs), data_fingerprint=inputs["cohort"], results=tuple(results), guarantee=adapted.guarantee,
        restrictions=tuple(dict.fromkeys((*adapted.restrictions, *(r for c in others for r in c.restrictions)))),
        consent={r: o.left_out.get(r, 0) + there.left_out.get(r, 0) for r in {**o.left_out, **there.left_out}},
        environment=environment(recipe.seed),
        not_measured=(
            "Attackers with more persons to learn from, or with the persons' other records: what is found here is a lower bound.",
            f"Whether the representation serves any task but {'this one' if recipe.transfer is None else 'these'}, or any other"
            " group of people.",
        ),
        caveats=(
            *adapted.caveats, *_since(o, adapted), *(() if adapted.guarantee == PLAIN else (UNCOVERED,)),
            "A representation of a person is that person's data, whatever protected the adapter: ε bounds what the weights"
            " tell about those who trained it, not what a vector tells about whom it was computed from.",
            f"Intervals are over {len(set(o.table.person[~o.train]))} held-out persons; one split and one seed were used, and"
            " their own spread is not in the intervals.",
            *(EXPLAINED if recipe.explain is not None else ()),
            *(PERSONAL if recipe.personal is not None else ()),
            *(ELSEWHERE if recipe.transfer is not None else ()),
        ),
    )  # fmt: skip


def _since(o: Any, adapted: Report) -> tuple[str, ...]:
    """A sentence where the cohort, as it may be used for training today, is not what the run was adapted to."""
    try:
        now = keyed(open_cohort(Plugin(**o.config["cohort"]), "training")[0].fingerprint)
    except MienError:  # nobody may be trained on any more
        now = ""
    if now == adapted.data_fingerprint:
        return ()
    said = (
        "The cohort has changed since the run was adapted (recordings, consents, or the key of these run folders): the figures"
        " are of what is there now, and persons the adapter learned from may be missing or others' recordings in their place."
    )
    console.say(f"  {said}")
    return (said,)


def _made(o: Any) -> str:
    if o.config.get("autoencoder"):
        return f"An autoencoder of {', '.join(o.made.modalities)} was trained whole on"
    return f"The towers {', '.join(o.slices)} of a frozen base ({o.config['backbone']['name']}) were LoRA-adapted to"
