"""Opening the cohort a recipe names, for one purpose."""

from __future__ import annotations

from ..core import console, plugins
from ..core.config import Plugin
from ..core.records import Cohort


def open_cohort(section: Plugin, purpose: str) -> tuple[Cohort, dict[str, int]]:
    """The cohort, without the persons who have not agreed to `purpose`; and how many were left out, by reason."""
    module, config = plugins.resolve("data/datasets", section, f"cohort {section.name}")
    cohort, left_out = module.load(config).for_purpose(purpose)
    for reason, count in left_out.items():
        console.say(f"  {count} person(s) left out: {reason}")
    return cohort, left_out
