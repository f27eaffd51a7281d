"""`mien …` in a process of its own, without its imports: a server that has read them forks for each command.

Reading torch, transformers, PEFT and the rest takes some ten seconds of a core, and the tests of recipes call the command line more than a
hundred times. A fork is a process of its own all the same: its working directory, environment, streams and exit code, and
nothing that it does comes back. What a fresh interpreter would miss is left to the runs that start one (`Lab.fresh`).
"""

from __future__ import annotations

import atexit
import json
import os
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

# what verbs import where they need it
_HEAVY = (
    "accelerate", "datasets", "matplotlib.figure", "peft", "pyarrow.parquet", "safetensors.torch", "scipy.fft", "scipy.interpolate",
    "scipy.ndimage", "scipy.optimize", "scipy.signal", "scipy.stats", "sklearn.ensemble", "sklearn.linear_model", "sklearn.model_selection",
    "torch.nn.functional", "transformers.models.llama.modeling_llama", "transformers.models.llava.modeling_llava",
    "trl.trainer.dpo_trainer", "mien.recipes.adapt", "mien.recipes.align", "mien.recipes.attack", "mien.recipes.evaluate",
    "mien.recipes.generate", "mien.recipes.pretrain",
)  # fmt: skip


class Server:
    """One process that forks for whoever asks; started at the first command, and gone with this one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None

    def run(self, args: Sequence[str], cwd: Path, env: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
        """`mien ARGS`, as `subprocess.run` with text captured."""
        with self._lock, tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
            places = [f"/proc/{os.getpid()}/fd/{f.fileno()}" for f in (out, err)]
            asked = {"args": list(args), "cwd": str(cwd), "env": dict(env), "streams": places}
            inbox, outbox = self._pipes(env)
            inbox.write(json.dumps(asked) + "\n")
            inbox.flush()
            code = int(outbox.readline())
            out.seek(0)
            err.seek(0)
            return subprocess.CompletedProcess(["mien", *args], code, out.read(), err.read())

    def _pipes(self, env: Mapping[str, str]) -> tuple[IO[str], IO[str]]:
        if self._process is None:
            command = [sys.executable, "-c", "from tests.recipes import warm; warm.serve()"]
            root = Path(__file__).resolve().parents[2]
            self._process = subprocess.Popen(
                command, cwd=root, env=dict(env), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
            atexit.register(self._process.kill)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        return self._process.stdin, self._process.stdout


def serve() -> None:
    """Read a command from each line of the standard input, fork for it, and write its exit code."""
    import gc
    import importlib
    import signal

    sys.path[:] = [p for p in sys.path if p not in ("", os.getcwd())]  # `mien` is the installed one, as for a user
    for name in _HEAVY:
        importlib.import_module(name)
    threads = [
        (t / "comm").read_text().strip() for t in Path("/proc/self/task").iterdir() if t.name != str(os.getpid())
    ]
    others = set(threads) - {"jemalloc_bg_thd"}  # which jemalloc stops for a fork by itself
    assert not others, f"a fork would lose threads that imports started: {others}"
    gc.freeze()  # a collector that looks at what was read would copy all of it into every fork
    inbox, outbox = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w")
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the tests' to hear
    for line in inbox:
        asked = json.loads(line)
        child = os.fork()
        if child == 0:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            os._exit(_become(asked))  # and no interpreter to take down
        outbox.write(f"{os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])}\n")
        outbox.flush()


def _become(asked: dict) -> int:
    """This process is now `mien ARGS`, to its exit code."""
    for fd, place, mode in zip((0, 1, 2), ("/dev/null", *asked["streams"]), "rww", strict=True):
        with open(place, mode) as stream:
            os.dup2(stream.fileno(), fd)
    os.environ.clear()
    os.environ.update(asked["env"])
    os.chdir(asked["cwd"])
    sys.argv = ["mien", *asked["args"]]
    from mien.cli import main

    try:
        code = main()
    except SystemExit as left:
        code = left.code if isinstance(left.code, int) else int(left.code is not None)
    except BaseException:
        traceback.print_exc()
        code = 1
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    return code


server = Server()
