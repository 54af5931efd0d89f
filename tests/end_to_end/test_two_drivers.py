"""Two drivers on one root: one runs, the other names it; a driver that is gone blocks no other."""

import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.conftest import Raw
from tests.jobs.command import mad, published
from tests.processes import Mad, begun_mad

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


@contextmanager
def driver(config: Path) -> Iterator[Mad]:
    """A driver that has the lock of its root."""
    with begun_mad(["run", str(config), "--output", "json"], REPOSITORY, os.environ) as running:
        deadline = time.monotonic() + 120
        while not list((config.parent / "root" / "runs").glob("*/_run.json")):
            assert running.process.is_alive(), running.ended()
            assert time.monotonic() < deadline, "the driver does not begin"
            time.sleep(0.02)
        yield running


def test_the_second_of_two_drivers_says_who_is_at_work_and_writes_nothing(config: Path, tmp_path: Path) -> None:
    with driver(config) as first:
        second = mad("run", config)
        assert (second.code, second.out) == (3, "")
        assert second.complaint.startswith(
            f"{tmp_path}/root: another driver is at work in this root (process {first.process.pid} of "
        )
        assert second.complaint.count("wait until it has ended, or end it") == 1
        status = mad("status", tmp_path / "root")
        assert f"at work (process {first.process.pid} of " in status.out
        ended = first.ended()
    assert ended.code == 0, ended.err
    assert len(published(tmp_path / "root", "digits")) == 1
    assert len(list((tmp_path / "root" / "runs").iterdir())) == 1
    assert mad("run", config).code == 0


def test_a_driver_that_was_killed_blocks_no_other(config: Path, tmp_path: Path) -> None:
    with driver(config) as first:
        first.process.kill()
        assert first.ended().code == -signal.SIGKILL
    status = mad("status", tmp_path / "root", "--output", "json").document
    assert status["locked_by"] is None
    assert "interrupted (`mad run` resumes)" in str(status["runs"])
    again = mad("run", config, "--output", "json")
    assert again.code == 0, again.err
    assert "locked" not in again.err
    assert len(published(tmp_path / "root", "digits")) == 1
