"""Opening the cohort a recipe names, for one purpose."""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import date

from ..core import console, plugins
from ..core.config import Plugin
from ..core.errors import MienError
from ..core.records import Cohort


def open_cohort(section: Plugin, purpose: str) -> tuple[Cohort, dict[str, int]]:
    """The cohort, without the persons who have not agreed to `purpose`; and how many were left out, by reason.

    MienError for sharing what its licence or agreement does not let anybody pass on, whatever the persons agreed to.
    """
    module, config = plugins.resolve("data/datasets", section, f"cohort {section.name}")
    console.waiting(f"reading the cohort {section.name}")
    cohort = module.load(config)
    kept_back = {"no-redistribution", "credentialed"} & set(cohort.card.restrictions)
    if purpose == "sharing" and kept_back:
        raise MienError(
            f"cohort {cohort.card.name!r} may not be shared ({min(kept_back)}): {cohort.card.licence}; whoever wants it"
            " gets it from its holder"
        )
    cohort, left_out = cohort.for_purpose(purpose)
    for reason, count in left_out.items():
        console.say(f"  {count} person(s) left out: {reason}")
    return cohort, left_out


def simulated(section: Plugin) -> bool:
    """Whether the data set is nobody's recordings: its file says so (SIMULATED), never a cohort's own text."""
    module, _ = plugins.resolve("data/datasets", section, f"cohort {section.name}")
    return bool(getattr(module, "SIMULATED", False))


def ledger_source(section: Plugin, cohort: Cohort) -> str:
    """Where the persons' ids come from, as the ledger tells ids apart: the data set, not the cohort's name.

    For a folder, its declared source (without one its name, which a plain run may do with). Simulated persons are others
    under every other setting.
    """
    if section.name == "folder":
        return f"folder:{cohort.card.source or cohort.card.name}"
    if simulated(section):
        return f"{section.name}:{json.dumps(section.options, sort_keys=True, default=str)}"
    return section.name


def require_consent(section: Plugin, persons: Iterable[str], purpose: str) -> None:
    """MienError, with counts, unless every one of `persons` allows `purpose` today.

    For verbs that use what was already learned from these persons and can no longer leave one of them out.
    """
    module, config = plugins.resolve("data/datasets", section, f"cohort {section.name}")
    cohort = module.load(config)
    if cohort.card.synthetic:
        return
    reasons: dict[str, int] = {}
    for person in persons:
        consent = cohort.consents.get(person)
        reason = "no consent recorded" if consent is None else consent.refusal(purpose, date.today())
        if reason:
            reasons[reason] = reasons.get(reason, 0) + 1
    if reasons:
        told = ", ".join(f"{n} {why}" for why, n in reasons.items())
        raise MienError(
            f"this adapter learned from persons who do not allow {purpose} ({told}); adapt again without them, and see"
            " `mien data touches` for what else they are in"
        )
