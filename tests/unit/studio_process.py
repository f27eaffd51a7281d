"""Starts `invented.py` and talks to it, for the tests of the studio's server and of its page."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Running:
    """A studio on loopback in a process of its own."""

    folder: Path
    args: tuple[str, ...] = ()
    port: int = 0
    tokens: dict[str, str] = field(default_factory=dict)
    study: str = ""
    process: Any = None

    def start(self) -> Running:
        env = {**os.environ, "PYTHONPATH": str(ROOT / ".typing"), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, str(Path(__file__).with_name("invented.py")), str(self.folder), *self.args]
        self.process = subprocess.Popen(
            [*command, "--port", str(self.port)], env=env, stdout=subprocess.PIPE, text=True
        )
        told = json.loads(self.process.stdout.readline())
        self.port, self.tokens, self.study = told["port"], told["tokens"], told["study"]
        return self

    def stop(self, how: int = signal.SIGTERM) -> int:
        self.process.send_signal(how)
        self.process.stdout.close()
        return self.process.wait(20)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def page(self, rater: str) -> str:
        return f"{self.url}/#seat={self.tokens[rater]}"

    def seat(self, rater: str) -> Seat:
        return Seat(self, self.tokens[rater])


class Seat:
    """One rater's requests."""

    def __init__(self, studio: Running, token: str):
        self.studio = studio
        self.http = httpx.Client(base_url=studio.url, headers={"X-Seat": token}, timeout=20)

    def get(self, path: str, **kw: Any) -> httpx.Response:
        return self.http.get(path, **kw)

    def state(self) -> dict[str, Any]:
        return self.get("/api/seat").raise_for_status().json()

    def form(self, **change: Any) -> dict[str, Any]:
        """An answer to the pair that comes next, as the page would send it."""
        pair = self.state()["upcoming"][0]
        form = {
            "study": self.studio.study,
            "pair": pair["pair"],
            "nonce": pair["nonce"],
            "choice": "left",
            "confidence": 4,
        }
        return {**form, "aspects": {"realism": "right"}, "comment": "", "seconds": 1.5, **change}

    def post(self, path: str, form: Any, **kw: Any) -> httpx.Response:
        return self.http.post(path, json=form, **kw)

    def answer(self, **change: Any) -> httpx.Response:
        return self.post("/api/answer", self.form(**change))
