"""The studio's server, asked over loopback as its page (or somebody else) would ask it."""

from __future__ import annotations

import contextlib
import json
import random
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from mien.alignment.store import Store
from mien.alignment.studio import offline, server
from mien.core.errors import MienError

from . import invented
from .studio_process import Running


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    raters = ("--raters", "ann", "bob", "cy", "dee", "eve", "fay")
    made = Running(tmp_path_factory.mktemp("studio"), ("--kind", "noise", "--pairs", "20", *raters)).start()
    yield made
    assert made.stop() == 0


@pytest.mark.parametrize("host", ["0.0.0.0", "::", ""])
def test_a_host_that_no_link_can_name_is_refused(tmp_path, host):
    study, _ = invented.study(tmp_path, "noise", 2, ["ann"])
    with pytest.raises(MienError, match=r"host=192.*names="):
        server.serve(study, host=host, port=0)
    assert "studio.example.org" in server.names(host, 8765, ["studio.example.org"])
    assert server.names("192.168.1.20", 8765) == ["192.168.1.20:8765"]


def stored(studio: Running) -> Store:
    return Store.open(studio.folder / "feedback.sqlite")


def test_the_page_needs_nothing_from_elsewhere(studio):
    got = httpx.get(studio.url)
    assert got.status_code == 200
    policy = got.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    assert got.headers["referrer-policy"] == "no-referrer"
    text = got.text
    assert not [
        x
        for x in ("src=", "<link", "@import", "url(", "innerHTML", "insertAdjacent", "eval(")
        if x in text.split("<script>")[0]
    ]
    assert not [
        x
        for x in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function")
        if x in text
    ]
    assert "http://" not in text.replace("http://www.w3.org/2000/svg", "")
    assert "https://" not in text


def test_a_rater_is_told_only_what_they_may_know(studio):
    state = studio.seat("ann").state()
    assert state["rater"] == "ann"
    assert len(state["upcoming"]) == 2
    assert set(state["upcoming"][0]) == {"pair", "label", "nonce", "advice"}
    pair = state["upcoming"][0]["pair"]
    both = [studio.seat("ann").get(f"/api/recording/{pair}/{side}").raise_for_status() for side in ("left", "right")]
    text = json.dumps(state) + both[0].text + both[1].text
    for word in ("made-", "broken", "real:", "repeat", "control", "bob", studio.tokens["bob"]):
        assert word not in text
    assert studio.seat("ann").get(f"/api/recording/{pair}/middle").status_code == 409
    assert studio.seat("ann").get("/api/recording/unknown/left").status_code == 409


@pytest.mark.parametrize("token", ["", "x", "a" * 43, "../../etc", "é", "x" * 3000])
def test_a_wrong_token_opens_nothing(studio, token):
    headers = {"X-Seat": token.encode()}
    for path in ("/api/seat", "/api/mine", "/api/recording/x/left"):
        got = httpx.get(studio.url + path, headers=headers)
        assert got.status_code == 401, path
        assert "seat" in got.json()["error"]
    form = studio.seat("ann").form()
    before = stored(studio).fingerprint()
    for path in ("/api/answer", "/api/undo", "/api/advice"):
        assert httpx.post(studio.url + path, json=form, headers=headers).status_code == 401
    assert stored(studio).fingerprint() == before


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"}, {"Host": "127.0.0.1:1"}, {"Host": "127.0.0.1"}, {"Origin": "http://evil.example"},
        {"Origin": "null"}, {"Origin": "http://127.0.0.1:1"}, {"Origin": ""},
    ],
    ids=str,
)  # fmt: skip
def test_another_page_is_refused(studio, headers):
    seat = studio.seat("ann")
    assert seat.get("/api/seat", headers=headers).status_code == 403
    assert seat.post("/api/answer", seat.form(), headers=headers).status_code == 403
    assert seat.get("/", headers=headers).status_code == 403
    assert seat.get("/api/seat", headers={"Origin": f"http://localhost:{studio.port}"}).status_code == 200


def test_a_form_sent_twice_is_stored_once(studio):
    seat = studio.seat("bob")
    form = seat.form(comment="twice")
    first, second = seat.post("/api/answer", form), seat.post("/api/answer", form)
    assert first.status_code == second.status_code == 200
    assert first.json()["stored"] == second.json()["stored"]
    assert first.json()["done"] == second.json()["done"] == 1
    other = seat.post("/api/answer", {**form, "choice": "right"})
    assert other.status_code == 409
    assert "what was stored first stands" in other.json()["error"]
    (said,) = seat.get("/api/mine").json()["answers"]
    assert (said["choice"], said["aspects"], said["comment"]) == ("left", {"realism": "right"}, "twice")


def test_two_windows_of_one_rater_store_one_answer(studio):
    one, two = studio.seat("cy"), studio.seat("cy")
    forms = [one.form(choice="left"), two.form(choice="right")]
    assert forms[0]["nonce"] == forms[1]["nonce"]
    codes = sorted(s.post("/api/answer", f).status_code for s, f in zip((one, two), forms, strict=True))
    assert codes == [200, 409]
    assert one.state()["done"] == 1


def test_undo_brings_the_pair_back_and_says_what_it_was(studio):
    seat = studio.seat("dee")
    form = seat.form(choice="both_bad", comment="hm")
    n = seat.post("/api/answer", form).json()["stored"]
    undo = {"study": studio.study, "answer": n}
    assert studio.seat("eve").post("/api/undo", undo).status_code == 409  # another rater's
    got = seat.post("/api/undo", undo).json()
    assert got["undone"]["choice"] == "both_bad"
    assert got["undone"]["comment"] == "hm"
    assert got["undone"]["aspects"] == {"realism": "right"}
    assert (got["done"], got["last"], got["upcoming"][0]["pair"]) == (0, None, form["pair"])
    assert got["upcoming"][0]["nonce"] != form["nonce"]
    assert seat.post("/api/undo", undo).status_code == 200
    assert seat.post("/api/answer", form).json()["done"] == 0  # the old form again: stored before, and taken back
    assert seat.answer().json()["done"] == 1
    for wrong in (None, "1", 0, -1, 10**30, [1], 2.5):
        assert seat.post("/api/undo", {"study": studio.study, "answer": wrong}).status_code == 409


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"nonce": "f" * 32}, 403), ({"nonce": ""}, 403), ({"nonce": None}, 403), ({"nonce": ["x"]}, 403),
        ({"study": "0" * 24}, 409), ({"study": None}, 409), ({"pair": "unknown"}, 409), ({"pair": None}, 409),
        ({"pair": {"a": 1}}, 409), ({"choice": "A"}, 409), ({"choice": "middle"}, 409), ({"choice": ["left"]}, 409),
        ({"confidence": 9}, 409), ({"confidence": "4"}, 409), ({"aspects": {"beauty": "left"}}, 409), ({"aspects": [1]}, 409),
        ({"aspects": {"realism": "A"}}, 409), ({"comment": "x" * 4001}, 409), ({"comment": 1}, 409), ({"seconds": -1}, 409),
        ({"seconds": "long"}, 409), ({"side": "a"}, 409), ({"rater": "bob"}, 409), ({"kind": "control"}, 409),
    ],
    ids=str,
)  # fmt: skip
def test_a_wrong_or_forged_form_changes_nothing(studio, change, status):
    seat = studio.seat("eve")
    before = stored(studio).fingerprint()
    got = seat.post("/api/answer", seat.form(**change))
    assert got.status_code == status
    assert got.json()["error"]
    assert stored(studio).fingerprint() == before


def test_another_raters_form_is_forged(studio):
    ann, eve = studio.seat("ann"), studio.seat("eve")
    pair = ann.state()["upcoming"][0]
    form = {**eve.form(), "pair": pair["pair"], "nonce": pair["nonce"]}
    assert eve.post("/api/answer", form).status_code == 403


@pytest.mark.parametrize(
    ("content", "kind", "status"),
    [
        (b"", "application/json", 400), (b"[]", "application/json", 409), (b"\xff\xfe", "application/json", 400),
        (b"[" * 100_000, "application/json", 400), (b"{}", "text/plain", 415), (b"a=1", "application/x-www-form-urlencoded", 415),
        (b'{"comment": "' + b"x" * 300_000 + b'"}', "application/json", 413),
    ],
    ids=lambda x: str(x)[:30],
)  # fmt: skip
def test_what_is_no_form_is_refused(studio, content, kind, status):
    headers = {"X-Seat": studio.tokens["eve"], "Content-Type": kind}
    assert httpx.post(f"{studio.url}/api/answer", content=content, headers=headers).status_code == status


def test_a_body_without_an_end_is_cut_off(studio):
    def endless() -> Iterator[bytes]:
        for _ in range(2000):
            yield b"x" * 65536

    headers = {"X-Seat": studio.tokens["eve"], "Content-Type": "application/json"}
    with contextlib.suppress(httpx.TransportError):  # it hangs up, which is as good
        assert httpx.post(f"{studio.url}/api/answer", content=endless(), headers=headers).status_code == 413
    assert studio.seat("eve").state()["rater"] == "eve"


def test_markup_in_a_comment_stays_a_comment(studio):
    nasty = "<script>alert(1)</script><img src=x onerror=alert(2)>\u2028'\"&amp;\\"
    assert studio.seat("eve").answer(comment=nasty).status_code == 200
    (said,) = [s.comment for _, rater, s, _ in stored(studio).standing() if rater == "eve"]
    assert said == nasty
    got = studio.seat("eve").get("/api/mine")
    assert got.json()["answers"][-1]["comment"] == nasty
    assert got.headers["content-type"] == "application/json"
    assert got.headers["x-content-type-options"] == "nosniff"


def test_a_recognised_recording_is_hidden_from_everybody(studio):
    fay, ann = studio.seat("fay"), studio.seat("ann")
    pair = fay.state()["upcoming"][0]["pair"]
    advice = {"study": studio.study, "pair": pair, "side": "left", "kind": "recognise", "nonce": "n" * 16}
    total = ann.state()["total"]
    assert fay.post("/api/advice", {**advice, "side": "up"}).status_code == 409
    assert fay.post("/api/advice", {**advice, "body": {"who": "x"}}).status_code == 409
    after = fay.post("/api/advice", advice)
    assert after.status_code == 200
    assert pair not in [p["pair"] for p in after.json()["upcoming"]]
    assert fay.post("/api/advice", advice).status_code == 200
    assert ann.state()["total"] < total
    assert fay.get(f"/api/recording/{pair}/left").status_code == 409
    assert 409 in [ann.get(f"/api/recording/{pair}/{side}").status_code for side in ("left", "right")]
    assert len(stored(studio).blocked()) == 1


def test_a_page_without_a_server_says_the_same(tmp_path):
    """What a page saves comes back as if it had been said in the studio; again, and it is there once."""
    study, _ = invented.study(tmp_path, "noise", 12, ["ann", "bob"])
    for file, rater in zip(
        offline.write_pages(study, ["ann", "bob"], tmp_path / "page.html"), ("ann", "bob"), strict=True
    ):
        assert file.name == f"page-{rater}.html"
        assert file.stat().st_mode & 0o077 == 0
    text = (tmp_path / "page-ann.html").read_text()
    data = json.loads(text.split('id="data">')[1].split("</script>")[0])
    for word in ("made-", "broken", "real:", "repeat", "control", '"kind":"pair"'):
        assert word not in json.dumps({**data, "recordings": []})
    assert "default-src 'none'" in text
    mine = {"study": data["study"], "rater": "ann", "seal": data["seal"]}
    rows = [
        {**mine, "what": "answer", "pair": p["pair"], "nonce": f"nonce-{i:05d}", "choice": "left",
         "confidence": 2, "aspects": {}, "comment": "<b>", "seconds": 3.5, "at": f"2026-01-01T00:00:{i:02d}.000Z"}
        for i, p in enumerate(data["pairs"])
    ]  # fmt: skip
    rows.append({**mine, "what": "undo", "nonce": "nonce-00000", "at": "2026-01-01T00:01:00.000Z"})
    (file := tmp_path / "answers.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    assert offline.take(study, file) == {"answer": len(rows) - 1, "undo": 1}
    before = study.store.fingerprint()
    offline.take(study, file)
    assert study.store.fingerprint() == before
    said = study.store.standing("ann")
    assert len(said) == len(data["pairs"]) - 1
    assert said[0][3] == "2026-01-01T00:00:01.000Z"
    for _, _, answer, _ in said:
        assert (answer.choice == "A") == (answer.side == "a")  # what stood on the left
    for wrong, told in (
        ({**rows[0], "study": "x"}, "another cohort"), ({**rows[0], "rater": "eve"}, "no rater"),
        ({**rows[0], "choice": "A"}, "choice"), ({**rows[0], "choice": "right"}, "said something else"),
        ({**rows[0], "at": None}, "when it was said"), ({**rows[0], "what": "shout"}, "answer, undo or advice"),
        ({**rows[0], "what": "undo", "nonce": "never"}, "never said"), ([1], "another cohort"),
        ({**rows[0], "rater": "bob"}, "not said on a page of bob"), ({**rows[0], "seal": "é"}, "not said on a page of ann"),
        ({k: v for k, v in rows[0].items() if k != "seal"}, "make ann a new page"),
    ):  # fmt: skip
        (bad := tmp_path / "bad.jsonl").write_text(json.dumps(rows[1]) + "\n" + json.dumps(wrong))
        with pytest.raises(offline.MienError, match=f"line 2.*{told}"):
            offline.take(study, bad)
    assert study.store.fingerprint() == before


def test_a_killed_studio_goes_on(tmp_path):
    studio = Running(tmp_path, ("--kind", "noise", "--pairs", "6")).start()
    seat = studio.seat("ann")
    form = seat.form()
    n = seat.post("/api/answer", form).json()["stored"]
    studio.stop(signal.SIGKILL)
    studio.start()
    seat = studio.seat("ann")
    assert seat.state()["done"] == 1
    assert seat.post("/api/answer", form).json()["stored"] == n  # the page tries again: it was stored
    assert seat.state()["done"] == 1
    assert studio.stop(signal.SIGINT) == 0


def busy(studio: Running, answers: int, raters: list[str], kills: int) -> dict[str, dict[str, int]]:
    """All raters at once answer so many pairs each, and try again whatever failed, while the server is killed. Returns
    what each was told: pair -> the answer's number."""
    told: dict[str, dict[str, int]] = {r: {} for r in raters}

    def rate(rater: str) -> None:
        seat, rng = studio.seat(rater), random.Random(rater)

        def insist(call):
            while True:
                try:
                    got = call()
                    if got.status_code < 500:
                        return got
                except httpx.TransportError:
                    pass
                time.sleep(0.05)

        state = insist(lambda: seat.get("/api/seat")).json()
        while len(told[rater]) < answers:
            pair = state["upcoming"][0]
            form = {
                "study": studio.study,
                "pair": pair["pair"],
                "nonce": pair["nonce"],
                "choice": rng.choice(["left", "right"]),
            }
            for _ in range(1 + (rng.random() < 0.05)):  # now and then a double click
                got = insist(lambda form=form: seat.post("/api/answer", form))
                assert got.status_code == 200, got.text
            state = got.json()
            told[rater][pair["pair"]] = state["stored"]

    threads = [threading.Thread(target=rate, args=(r,)) for r in raters]
    for t in threads:
        t.start()
    for k in range(kills):
        while sum(map(len, told.values())) < (k + 1) * answers * len(raters) / (kills + 1):
            time.sleep(0.01)
        studio.stop(signal.SIGKILL)
        studio.start()
    for t in threads:
        t.join()
    return told


def check(folder: Path, told: dict[str, dict[str, int]]) -> None:
    with Store.open(folder / "feedback.sqlite") as store:
        rows = store._read("SELECT a.n, s.rater, a.pair FROM answers a JOIN seats s ON s.n = a.seat")
        assert {(r, p): n for n, r, p in rows} == {(r, p): n for r, pairs in told.items() for p, n in pairs.items()}
        assert len(rows) == sum(map(len, told.values()))
        assert store._read("PRAGMA integrity_check") == [("ok",)]


def test_nothing_is_lost_or_doubled_when_it_is_killed_under_load(tmp_path):
    raters = ["ann", "bob", "cy"]
    studio = Running(tmp_path, ("--kind", "noise", "--pairs", "30", "--raters", *raters)).start()
    told = busy(studio, 12, raters, kills=1)
    studio.stop()
    check(tmp_path, told)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_ten_raters_ten_thousand_pairs_and_three_kills(tmp_path):
    """10⁴ pairs, 10 raters at once, 10⁴ answers: each once, whatever the server went through."""
    raters = [f"rater-{i}" for i in range(10)]
    studio = Running(tmp_path, ("--kind", "noise", "--pairs", "10000", "--raters", *raters)).start()
    told = busy(studio, 1000, raters, kills=3)
    studio.stop()
    check(tmp_path, told)
