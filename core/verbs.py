"""What every verb's script shares: its command line, its errors, and the recipe keys all recipes have."""

from __future__ import annotations

import argparse
import contextlib
import errno
import importlib
import logging
import os
import re
import signal
import sys
import textwrap
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar, get_args

from pydantic import Field

from . import config, console, paths
from .errors import MienError

R = TypeVar("R", bound="Recipe")

PLAIN = "none (plain training, ε = ∞): nothing bounds what this adapter and its output reveal about a person"

GOES_ON = "stopped; run the same command again to continue where it was"

UNCOVERED = (
    "The figures on this page were computed from the recordings themselves, those of the training persons among them:"
    " ε covers the adapter and what is sampled from it, not this page."
)


def protection(guarantee: str) -> str:
    """A guarantee in a few words, for legends and column heads."""
    found = re.match(r"\(([\d.e+-]+), .*?for each (\w+)", guarantee)
    return f"ε = {found[1]} per {found[2]}" if found else "plain, ε = ∞"


class Recipe(config.Section):
    """study: the name run folders carry; seed: of everything random in a plain run."""

    study: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    seed: int = Field(default=0, ge=0, lt=2**63)


class Parser(argparse.ArgumentParser):
    """argparse with `parse_intermixed_args` counts `key=value …` among what is required; none is. about: what stands below
    the options, asked for when it is shown."""

    about: Callable[[], str] | None = None

    def format_help(self) -> str:
        self.epilog = self.about() if self.about else self.epilog
        return super().format_help()

    def error(self, message: str) -> NoReturn:
        super().error(message.replace(", key=value", "") if "required" in message else message)


class _Help(argparse.HelpFormatter):
    """Folds paragraphs, and leaves alone what has lines of its own."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return text if "\n" in text else super()._fill_text(text, width, indent)


def told(model: type[config.Section], width: int = 79) -> str:
    """The keys of a recipe in at most `width` columns: what the docstrings say of each, and the keys inside a section."""
    said, lines = config.described(model), []
    names = config.keys(model)
    edge = max(map(len, names)) + 4
    for name, field in zip(names, model.model_fields.values(), strict=True):
        inside = [k for m in config.models(field.annotation) for k in config.keys(m)]
        text = said.get(name, "")
        if inside and inside != ["name"]:
            text = f"{text}: {', '.join(inside)}".removeprefix(": ")
        start = f"  {name:<{edge - 2}}"
        lines.append(textwrap.fill(start + text, width, subsequent_indent=" " * edge, break_on_hyphens=False))
    return "\n".join(lines)


def arguments(verb: str, what: str, model: type[R], argv: Sequence[str] | None) -> tuple[R, bool]:
    """Parse `RECIPE [key=value …] [--seed N] [--fresh]` into the typed recipe and the fresh flag."""
    example = next((command for command, _ in config.commands(verb)), f"mien {verb} my-recipe.yaml")
    parser = Parser(
        prog=f"mien {verb}",
        description=what,
        formatter_class=_Help,
    )
    parser.about = lambda: (
        f"keys (key=value; inside a section, section.key=value):\n{told(model)}\n\nexample: {example} seed=1"
    )
    parser.add_argument("recipe", help="a YAML recipe; the shipped ones are found from any folder")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="override single keys, dots go into sections")
    parser.add_argument("--seed", type=int, help="the same as seed=N")
    parser.add_argument("--fresh", action="store_true", help="do not reuse or continue an earlier run of this recipe")
    if "profile" in model.model_fields:
        choices = get_args(model.model_fields["profile"].annotation)
        parser.add_argument("--profile", choices=choices, help="the same as profile=NAME")
    if "rounds" in model.model_fields:
        parser.add_argument("--rounds", type=int, metavar="N", help="the same as rounds=N")
    if "simulate" in model.model_fields and model.model_fields["simulate"].default is None:
        parser.add_argument(
            "--simulate", action="store_true", help="the same as simulate={}: the usual simulated experts"
        )
    if "sampling" in model.model_fields:
        parser.add_argument("--num-per-label", type=int, metavar="N", help="the same as sampling.per_label=N")
    args = parser.parse_intermixed_args(argv)
    extra = [] if args.seed is None else [f"seed={args.seed}"]
    extra += [f"profile={args.profile}"] if getattr(args, "profile", None) else []
    extra += ["simulate={}"] if getattr(args, "simulate", False) else []
    for option, key in (("rounds", "rounds"), ("num_per_label", "sampling.per_label")):
        n = getattr(args, option, None)
        extra += [] if n is None else [f"{key}={n}"]
    raw = config.read(args.recipe, [*args.overrides, *extra])
    try:
        return config.parse(model, raw, str(args.recipe)), args.fresh
    except MienError:
        others = [] if set(raw) <= set(config.keys(model)) else made_for(raw)
        if others:
            named = " or ".join(f"`mien {v}`" for v in others)
            raise MienError(f"{args.recipe} looks like a recipe of {named}, not of `mien {verb}`") from None
        raise


def made_for(raw: Mapping[str, Any]) -> list[str]:
    """The verbs that know every key of a recipe."""
    out = []
    for file in sorted(config.RECIPES.glob("[a-z]*.py")):
        model = getattr(importlib.import_module(f"mien.recipes.{file.stem}"), file.stem.capitalize(), None)
        if model is not None and set(raw) <= set(config.keys(model)):
            out.append(file.stem)
    return out


def _worth_telling(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.ERROR


def guard(main: Callable[..., int | None], *args: Any) -> int:
    """Run a verb; what a person can act on becomes one line and exit code 2, an interruption 130."""

    # the libraries' own bars and advice would drown ours; this is before any of them is imported
    for name, value in {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "TRANSFORMERS_VERBOSITY": "error"}.items():
        os.environ.setdefault(name, value)
    for name in ("bitsandbytes", "DeepSpeed", "transformers"):
        logging.getLogger(name).setLevel(logging.ERROR)
        logging.getLogger(name).addFilter(_worth_telling)  # DeepSpeed sets its level anew when it is imported
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"transformers|peft|torch|accelerate")
    try:
        with _stoppable():
            return main(*args) or 0
    except MienError as error:
        console.fail(str(error))
        return 2
    except KeyboardInterrupt as stop:
        # CPython notes an interrupted exec() of a string, and `python -m` then dies of SIGINT whatever its exit code: note another
        exec("")
        console.fail(str(stop) or GOES_ON)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except Exception as error:
        if full_disk(error):
            where = f" ({error.filename})" if isinstance(error, OSError) and error.filename else ""
            console.fail(f"the disk is full{where}; nothing half-written was kept: free some space and run again")
            return 2
        cause = paths.unusable(error) if isinstance(error, OSError) else None
        if cause is not None:
            console.fail(cause)
            return 2
        raise


@contextlib.contextmanager
def stopped(said: str) -> Iterator[None]:
    """What `guard` says where the block is interrupted, in the place of `GOES_ON`."""
    try:
        yield
    except KeyboardInterrupt:
        raise KeyboardInterrupt(said) from None


@contextlib.contextmanager
def _stoppable() -> Iterator[None]:
    """SIGINT and SIGTERM raise KeyboardInterrupt, and again half a second later until it arrives.

    An exception raised while an object is being freed is lost (tensors are freed by the thousand), and Ctrl-C with it.
    """

    def stop(number: int, frame: Any) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0.5)
        raise KeyboardInterrupt

    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)
    before = {s: signal.signal(s, stop) for s in signals}
    try:
        yield
    finally:
        off = False
        while not off:  # the repetition may arrive in here: half undone, it would strike once more, outside of `guard`
            with contextlib.suppress(KeyboardInterrupt):
                signal.setitimer(signal.ITIMER_REAL, 0)
                for s in signals:
                    signal.signal(s, signal.SIG_IGN)
                off = True
        for s, handler in before.items():
            signal.signal(s, handler)


def full_disk(error: BaseException | None) -> bool:
    """ENOSPC anywhere in the chain; libraries wrap it in errors of their own."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        if "No space left on device" in str(error) or "os error 28" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


def public(value: Any) -> Any:
    """A recipe as it may be shown outside: local paths lose their folders, and a file of what persons said its name, which may be
    theirs."""
    if isinstance(value, dict):
        return {k: "a file" if k == "preferences" and v is not None else public(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [public(v) for v in value]
    if isinstance(value, str) and _local(os.path.expanduser(value)):
        return f"…/{Path(value).name}"
    return value


def _local(name: str) -> bool:
    """A path of this machine's; hubs' `owner/model` is none, and a shipped recipe is everybody's."""
    return os.path.isabs(name) or (os.sep in name and not name.startswith("recipes/") and os.path.exists(name))
