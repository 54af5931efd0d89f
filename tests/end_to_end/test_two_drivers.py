"""Two drivers on one root: one runs, the other names it; a driver that is gone blocks no other."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import Raw
from tests.jobs.command import mad, published

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def config(raw: Raw, digits: Path, tmp_path: Path) -> Path:
    """A config of a slow model."""
    for name in ("trusted.parquet", "audited.parquet"):
        (tmp_path / name).symlink_to(digits / name)
    model: Raw = {
        "name": "digits",
        "architecture": "tests.end_to_end.slow:build",
        "weights": str(digits / "digits.safetensors"),
    }
    path = tmp_path / "audit.yaml"
    path.write_text(json.dumps({**raw, "models": [model], "run": {"rows_per_task": 32, "batch_size": 32}}))
    return path


def drive(config: Path) -> "subprocess.Popen[str]":
    """A driver that has the lock of its root."""
    command = [sys.executable, "-m", "jobs.main", "run", str(config), "--output", "json"]
    driver = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not list((config.parent / "root" / "runs").glob("*/_run.json")):
        assert driver.poll() is None, driver.communicate()
        assert time.monotonic() < deadline, "the driver does not begin"
        time.sleep(0.02)
    return driver


def test_the_second_of_two_drivers_says_who_is_at_work_and_writes_nothing(config: Path, tmp_path: Path) -> None:
    first = drive(config)
    second = mad("run", config)
    assert (second.code, second.out) == (3, "")
    assert second.complaint.startswith(
        f"{tmp_path}/root: another driver is at work in this root (process {first.pid} of "
    )
    assert second.complaint.count("wait until it has ended, or end it") == 1
    status = mad("status", tmp_path / "root")
    assert f"at work (process {first.pid} of " in status.out
    _, errors = first.communicate(timeout=120)
    assert first.returncode == 0, errors
    assert len(published(tmp_path / "root", "digits")) == 1
    assert len(list((tmp_path / "root" / "runs").iterdir())) == 1
    assert mad("run", config).code == 0


def test_a_driver_that_was_killed_blocks_no_other(config: Path, tmp_path: Path) -> None:
    first = drive(config)
    first.kill()
    first.communicate()
    status = mad("status", tmp_path / "root", "--output", "json").document
    assert status["locked_by"] is None
    assert "interrupted (`mad run` resumes)" in str(status["runs"])
    again = mad("run", config, "--output", "json")
    assert again.code == 0, again.err
    assert "locked" not in again.err
    assert len(published(tmp_path / "root", "digits")) == 1
