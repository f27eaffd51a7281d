"""Assets: pinned, taken out of a wheel that a test makes, never from a network."""

from __future__ import annotations

import errno
import hashlib
import subprocess
import zipfile
from pathlib import Path

import pytest

from mien.core import assets
from mien.core.errors import MienError

BODY = b"plain numbers\n" * 1000


@pytest.fixture
def wheel(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small wheel, and an `assets.yaml` of one entry that pins it."""
    made = home / "toy-1.0-py3-none-any.whl"
    with zipfile.ZipFile(made, "w") as z:
        z.writestr("toy/data/numbers.bin", BODY)
        z.writestr("../evil.py", b"raise SystemExit")
        z.writestr("toy/__init__.py", b"raise SystemExit('the package must not run')")
    pin(monkeypatch, made)
    return made


def pin(monkeypatch: pytest.MonkeyPatch, wheel: Path, **changes: object) -> None:
    entry = {
        "package": "toy", "version": "1.0", "wheel_sha256": assets.sha256(wheel), "member": "toy/data/numbers.bin",
        "member_sha256": hashlib.sha256(BODY).hexdigest(), "megabytes": 1, "licence": "BSD", "what": "toy", **changes,
    }  # fmt: skip
    monkeypatch.setattr(assets, "_table", lambda: {"toy": assets.Asset(**entry)})


def left_over() -> list[str]:
    return sorted(str(p.name) for p in (assets.cache_home() / "assets").rglob("*") if p.is_file())


def test_the_shipped_table_is_whole():
    assert assets.names() == ["dinov2-s", "minilm", "resemblyzer", "smollm2-135m", "watch"]
    watch = assets.describe("watch")
    assert (watch.package, watch.version, watch.convert) == ("seglearn", "1.2.5", "watch")
    with pytest.raises(MienError, match="there are dinov2-s, minilm, resemblyzer, smollm2-135m, watch"):
        assets.describe("wacth")


def test_fetch_takes_one_member_and_is_idempotent(wheel, capsys):
    with pytest.raises(MienError, match="not here yet; run `mien assets fetch toy`"):
        assets.path("toy")
    folder = assets.fetch("toy", wheel)
    assert folder == assets.path("toy") == assets.cache_home() / "assets" / "toy"
    assert assets.file("toy").read_bytes() == BODY
    assert left_over() == ["numbers.bin"]
    assert not (folder.parent / "evil.py").exists()
    wheel.unlink()  # the second time needs no wheel
    assert assets.fetch("toy", wheel) == folder
    assert "is here and its sha256 is right" in capsys.readouterr().out


def test_a_changed_file_is_noticed_and_replaced(wheel):
    assets.fetch("toy", wheel)
    assets.file("toy").write_bytes(b"something else")
    with pytest.raises(MienError, match="run `mien assets fetch toy`"):
        assets.verify("toy")
    assets.fetch("toy", wheel)
    assert assets.verify("toy") == hashlib.sha256(BODY).hexdigest()


def test_members_beside_the_main_one(wheel, monkeypatch):
    with zipfile.ZipFile(wheel, "a") as archive:
        archive.writestr("toy/data/words.json", "{}")
    beside = {"toy/data/words.json": hashlib.sha256(b"{}").hexdigest()}
    pin(monkeypatch, wheel, also=beside)
    assets.fetch("toy", wheel)
    assert left_over() == ["numbers.bin", "words.json"]
    (assets.path("toy") / "words.json").write_text("[]")
    with pytest.raises(MienError, match="words.json is not what was fetched"):
        assets.verify("toy")
    assets.fetch("toy", wheel)
    assert assets.verify("toy")
    assets.file("toy").unlink()
    pin(monkeypatch, wheel, also={"toy/data/words.json": "0" * 64})
    with pytest.raises(MienError, match="not the pinned one; not kept"):
        assets.fetch("toy", wheel)
    assert not (assets.cache_home() / "assets" / "toy" / "numbers.bin").exists()


def test_wrong_hashes_keep_nothing(wheel, monkeypatch):
    pin(monkeypatch, wheel, wheel_sha256="0" * 64)
    with pytest.raises(MienError, match="the pinned one is 0000"):
        assets.fetch("toy", wheel)
    pin(monkeypatch, wheel, member_sha256="0" * 64)
    with pytest.raises(MienError, match="not the pinned one; not kept"):
        assets.fetch("toy", wheel)
    pin(monkeypatch, wheel, member="toy/absent.bin")
    with pytest.raises(MienError, match="has no member"):
        assets.fetch("toy", wheel)
    assert left_over() == []


def test_a_damaged_or_missing_wheel(wheel, monkeypatch):
    with pytest.raises(MienError, match="pip download --no-deps toy==1.0"):
        assets.fetch("toy", wheel.with_name("absent.whl"))
    wheel.write_bytes(wheel.read_bytes()[:100])
    pin(monkeypatch, wheel)
    with pytest.raises(MienError, match="damaged"):
        assets.fetch("toy", wheel)


def test_a_full_disk(wheel, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(assets, "_copy", full)
    monkeypatch.setattr(assets, "sha256", lambda path: assets.describe("toy").wheel_sha256)
    with pytest.raises(MienError, match="no space left in .* MIEN_CACHE"):
        assets.fetch("toy", wheel)
    assert left_over() == []


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("/usr/bin/python3: No module named pip", "-m ensurepip"),
        ("WARNING: Retrying: NewConnectionError('Temporary failure in name resolution')", "--wheel FILE"),
        (
            "ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device",
            "no space left",
        ),
        ("ERROR: x\nERROR: No matching distribution found for toy==1.0", "No matching distribution"),
    ],
)
def test_what_pip_says_becomes_one_line(wheel, monkeypatch, said, expected):
    calls = []

    def pip(command, **_):
        calls.append(command)
        return subprocess.CompletedProcess(command, 1, "", said)

    monkeypatch.setattr(subprocess, "run", pip)
    with pytest.raises(MienError) as error:
        assets.fetch("toy")
    assert expected in str(error.value)
    assert "\n" not in str(error.value)
    assert {"--no-deps", "--only-binary=:all:", "toy==1.0"} <= set(calls[0])


def test_a_download_goes_through_pip(wheel, monkeypatch):
    def pip(command, **_):
        (Path(command[command.index("--dest") + 1]) / wheel.name).write_bytes(wheel.read_bytes())
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", pip)
    assert assets.fetch_command(["toy"]) == 0
    assert assets.file("toy").read_bytes() == BODY
    assert left_over() == ["numbers.bin"]


def test_list_command(wheel, capsys):
    assert assets.list_command([]) == 0
    assert "toy" in capsys.readouterr().out
