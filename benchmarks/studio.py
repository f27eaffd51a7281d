"""How long a rater waits for the studio: the first pair, the next pair, and answers while ten raters answer at once.

python benchmarks/studio.py [--pairs 10000] [--answers 200] [--rounds 5]

The page is opened in a headless Chromium, on simulated recordings of 60 s with five sensors; a pair is on the screen when its
lanes are drawn and an answer is accepted. Ten raters then ask the same server over loopback, each in a thread of its own, with
a study of 10⁴ pairs. Beside them, in the same run: the time of the same number of plain requests for the page itself, which
touch neither store nor recordings. Needs the extra `dev` and Chromium (`playwright install chromium`, or the system's).
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tests.unit.studio_process import Running

READY = "#rate:not([hidden]):not([aria-busy=true])"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=10_000, help="pairs of the study that ten raters answer")
    parser.add_argument("--answers", type=int, default=200, help="answers of each of the ten")
    parser.add_argument("--rounds", type=int, default=5, help="times the page is opened")
    args = parser.parse_args()
    print("| what | median | 95th percentile | worst |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for kind in ("wrist", "lab"):
            looked(Path(folder) / kind, kind, args.rounds)
        loaded(Path(folder) / "many", args.pairs, args.answers)


def row(what: str, seconds: list[float]) -> None:
    ms = 1000 * np.array(seconds)
    print(f"| {what} | {np.median(ms):,.0f} ms | {np.quantile(ms, 0.95):,.0f} ms | {ms.max():,.0f} ms |", flush=True)


def timed(into: list[float], call: Callable[[], Any]) -> Any:
    began = time.perf_counter()
    out = call()
    into.append(time.perf_counter() - began)
    return out


def looked(folder: Path, kind: str, rounds: int) -> None:
    """First and next pair on the screen of a browser, whose cache is empty each time."""
    from playwright.sync_api import sync_playwright

    raters = [f"rater-{i}" for i in range(rounds)]
    folder.mkdir()
    studio = Running(folder, ("--kind", kind, "--pairs", "12", "--raters", *raters)).start()
    first: list[float] = []
    after: list[float] = []
    with sync_playwright() as p:
        found = next(filter(None, map(shutil.which, ("chromium", "google-chrome"))), p.chromium.executable_path)
        browser = p.chromium.launch(executable_path=found, args=["--no-sandbox", "--disable-gpu"])
        for rater in raters:
            page = browser.new_context(viewport={"width": 1280, "height": 800}).new_page()
            timed(first, lambda page=page, rater=rater: (page.goto(studio.page(rater)), page.wait_for_selector(READY)))
            for i in range(8):
                time.sleep(1)  # a person looks; meanwhile the page fetches the pair after this one
                page.keyboard.press("a")

                def go(page: Any, n: int) -> None:
                    page.keyboard.press("Enter")
                    page.wait_for_selector(f"#count:text-matches('^{n} of')", state="attached")
                    page.wait_for_selector(READY)

                timed(after, partial(go, page, i + 1))
            page.context.close()
        browser.close()
    studio.stop()
    row(f"{kind}: first pair on screen", first)
    row(f"{kind}: next pair on screen", after)


def loaded(folder: Path, pairs: int, answers: int) -> None:
    """Answers of ten raters at once, and then plain requests of ten clients."""
    raters = [f"rater-{i}" for i in range(10)]
    folder.mkdir()
    studio = Running(folder, ("--kind", "noise", "--pairs", str(pairs), "--raters", *raters)).start()
    stored: list[float] = []
    plain: list[float] = []

    def rate(rater: str) -> None:
        seat = studio.seat(rater)
        state = seat.state()
        for _ in range(answers):
            pair = state["upcoming"][0]
            form = {"study": studio.study, "pair": pair["pair"], "nonce": pair["nonce"], "choice": "left"}
            got = timed(stored, lambda form=form: seat.post("/api/answer", form))
            state = got.raise_for_status().json()

    def look(client_of: str) -> None:
        with httpx.Client(base_url=studio.url) as client:
            for _ in range(answers):
                timed(plain, lambda: client.get("/").raise_for_status())

    for work in (rate, look):
        threads = [threading.Thread(target=work, args=(r,)) for r in raters]
        began = time.perf_counter()
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        if work is rate:
            rate_s = 10 * answers / (time.perf_counter() - began)
    studio.stop()
    row(f"ten raters at once, {pairs:,} pairs: an answer stored, the next pair told", stored)
    row("the peer: ten clients at once, the page itself", plain)
    print(f"\n{rate_s:,.0f} answers/s; an answer / the page itself: {np.median(stored) / np.median(plain):.2f}")


if __name__ == "__main__":
    main()
