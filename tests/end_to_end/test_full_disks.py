"""A root that takes no more: one paragraph, exit 1, nothing published; with room made, the same command completes the audit."""

import errno
import json
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.storage.storage import Storage
from pipeline.planning.from_models import plan_audit
from pipeline.results.audit import open_audit
from pipeline.run import run_audit
from tests.conftest import ConfigMaker, Raw
from tests.infra.stores import fresh_url
from tests.infra.wires import Fault, broken_wire, error_answer
from tests.jobs.command import Ended, mad
from tests.services import Service, speak_to

REPOSITORY = Path(__file__).parents[2]


def mounted(folder: Path, options: str) -> None:
    """Mounts a disk in memory there, or changes the one that is there."""
    ended = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], capture_output=True, text=True, check=False
    )
    if ended.returncode:
        pytest.skip(f"cannot mount: {ended.stderr.strip()}")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 1 MiB."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small disk")
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted(folder, "size=1m")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture
def undisturbed(make_config: ConfigMaker, tmp_path: Path) -> object:
    """The scores of an audit with room enough."""
    return run_audit(plan_audit(make_config(root=str(tmp_path / "undisturbed")))).scores("digits").read_all()


def config_of(raw: Raw, digits: Path, root: str, folder: Path) -> Path:
    model: Raw = {
        "name": "digits",
        "architecture": "pipeline.demo.network:digit_cnn",
        "weights": str(digits / "digits.safetensors"),
    }
    data = {**raw["data"], "trusted": str(digits / "trusted.parquet"), "audited": str(digits / "audited.parquet")}  # type: ignore[dict-item]
    path = folder / "audit.yaml"
    path.write_text(json.dumps({**raw, "root": root, "models": [model], "data": data}))
    return path


def stopped(ended: Ended, reason: int) -> str:
    """What a run says that found its root to take no more."""
    assert (ended.code, ended.out) == (1, "")
    (complaint,) = [line for line in ended.err.splitlines() if line.startswith("mad: ")]
    assert os.strerror(reason) in complaint and "what is done is kept" in complaint
    assert "Traceback" not in ended.err
    return complaint


def scores(root: str) -> object:
    return open_audit(root).scores("digits").read_all().drop_columns(["source"])


def test_a_full_disk(raw: Raw, digits: Path, disk: Path, tmp_path: Path, undisturbed: object) -> None:
    root = disk / "root"
    config = config_of(raw, digits, str(root), tmp_path)
    complaint = stopped(mad("run", config, "-q"), errno.ENOSPC)
    assert "make room on that disk, then run again" in complaint and "`mad run` resumes from it" in complaint
    assert not list(root.glob("digits/scores/*"))
    done = len(list(root.glob("digits/gradients/*/*/receipts/*.json")))
    mounted(disk, "remount,size=64m")
    ended = mad("run", config, "--output", "json")
    assert ended.code == 0, ended.err
    stages = ended.summary["stages"]
    assert isinstance(stages, dict) and isinstance(stages["gradients"], dict)
    assert (
        stages["gradients"]["tasks_reused"] >= done > 0
    )  # a task of the first run, in a thread of this process, may have ended since
    assert scores(str(root)) == undisturbed.drop_columns(["source"])  # type: ignore[attr-defined]
    assert mad("verify", root).code == 0


def test_a_disk_that_is_full_before_the_run_begins(raw: Raw, digits: Path, disk: Path, tmp_path: Path) -> None:
    (disk / "ballast").write_bytes(bytes(1 << 20))
    stopped(mad("run", config_of(raw, digits, str(disk / "root"), tmp_path), "-q"), errno.ENOSPC)


def test_a_root_on_a_disk_that_is_read_only(raw: Raw, digits: Path, disk: Path, tmp_path: Path) -> None:
    root = disk / "root"
    config = config_of(raw, digits, str(root), tmp_path)
    mounted(disk, "remount,ro,size=64m")
    complaint = stopped(mad("run", config, "-q"), errno.EROFS)
    assert "mount that disk for writing, or choose another root" in complaint
    mounted(disk, "remount,rw,size=64m")
    assert mad("run", config).code == 0
    mounted(disk, "remount,ro,size=64m")
    for command in ("status", "verify", "inspect"):
        assert mad(command, root).code == 0
    stopped(mad("run", config, "-q"), errno.EROFS)
    stopped(mad("report", root), errno.EROFS)


def test_a_file_larger_than_the_user_may_write(raw: Raw, digits: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    config = config_of(raw, digits, str(root), tmp_path)

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (8 << 10, 8 << 10))

    command = [sys.executable, "-m", "jobs.main", "run", str(config), "-q"]
    ended = subprocess.run(command, cwd=REPOSITORY, preexec_fn=limited, capture_output=True, text=True, check=False)
    assert "raise the largest file" in stopped(Ended(ended.returncode, ended.stdout, ended.stderr), errno.EFBIG)
    assert mad("run", config).code == 0
    assert mad("verify", root).code == 0


def test_a_store_whose_quota_is_used_up(
    raw: Raw, digits: Path, on_moto: Service, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    root = fresh_url("s3")
    config = config_of(raw, digits, root, tmp_path)
    with broken_wire(
        on_moto.port, Fault(b"PUT ", after=20, times=1000, answer=error_answer("403 Forbidden", "QuotaExceeded"))
    ) as endpoint:
        speak_to(endpoint, on_moto.owner, monkeypatch)
        ended = mad("run", config, "-q")
    assert (ended.code, ended.out) == (1, "")
    assert "the store's quota is used up; make room or raise it, then run again" in ended.complaint
    speak_to(on_moto.endpoint, on_moto.owner, monkeypatch)
    assert not Storage(root).list("digits/scores")
    assert mad("run", config).code == 0
    assert mad("verify", root).code == 0
