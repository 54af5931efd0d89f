"""Nothing depends on the clock, the locale, the time zone or a home."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.audits import link_inputs
from tests.conftest import Raw
from tests.jobs.command import Ended, mad

REPOSITORY = Path(__file__).parents[2]


FAKETIME = next((path for path in Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1")), None)


needs_faketime = pytest.mark.skipif(FAKETIME is None, reason="Debian's package faketime is not installed")


@pytest.fixture
def config(raw: Raw, digits: Path, tmp_path: Path) -> Path:
    """A config of its own, in the test's folder."""
    link_inputs(digits, tmp_path)
    path = tmp_path / "audit.yaml"
    path.write_text(json.dumps(raw))
    return path


def run(config: Path, environment: Mapping[str, str], *arguments: str) -> Ended:
    """`mad run` in a process of its own, in this environment and no other."""
    command = [sys.executable, "-m", "jobs.main", "run", str(config), *arguments]
    ended = subprocess.run(
        command,
        cwd=REPOSITORY,
        env={"PATH": os.environ["PATH"], "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    return Ended(ended.returncode, ended.stdout, ended.stderr)


def tables(root: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted(root.glob("digits/scores/run=*/*.parquet"))]


def test_locale_time_zone_and_home_change_nothing(config: Path, tmp_path: Path) -> None:
    """A home that takes nothing, no UTF-8, and a locale that is not there."""
    assert mad("run", config).code == 0
    found = tables(tmp_path / "root")
    shutil.rmtree(tmp_path / "root")
    odd = {"HOME": "/proc", "LC_ALL": "de_DE.ISO-8859-1", "PYTHONUTF8": "0", "TZ": "America/St_Johns"}
    ended = run(config, odd)
    assert (ended.code, "Traceback" in ended.err) == (0, False), ended.err
    assert tables(tmp_path / "root") == found
    assert mad("verify", tmp_path / "root").code == 0


def faked(offset: str) -> dict[str, str]:
    return {"LD_PRELOAD": str(FAKETIME), "FAKETIME": offset, "LC_ALL": "C", "TZ": "Asia/Kathmandu"}  # and no home


@needs_faketime
def test_a_clock_that_was_set_back_between_two_runs_leaves_the_later_run_the_latest(
    config: Path, tmp_path: Path
) -> None:
    assert run(config, faked("+3000d")).code == 0
    config.write_text(json.dumps({**json.loads(config.read_text()), "score": {"kind": "mean_coupling"}}))
    second = run(config, faked("-3000d"), "--output", "json")
    assert second.code == 0
    third = mad("run", config, "--output", "json")
    assert (second.summary["same_as"], third.summary["same_as"]) == (None, second.document["run_id"])
    runs = sorted(path.name for path in (tmp_path / "root/runs").iterdir())
    assert runs[1:] == [second.document["run_id"], third.document["run_id"]]
    status = mad("status", tmp_path / "root", "--output", "json").document
    assert status["runs"][0]["run_id"] == runs[-1]  # type: ignore[index,call-overload]
    assert mad("verify", tmp_path / "root").code == 0


@needs_faketime
def test_a_clock_that_jumps_while_a_run_goes_on_is_not_noticed(config: Path, tmp_path: Path) -> None:
    """A year forth and two back, while the lock is renewed and rows are computed."""
    raw = json.loads(config.read_text())
    raw["models"][0]["architecture"] = "tests.end_to_end.slow:build"
    config.write_text(json.dumps(raw))
    assert mad("run", config).code == 0
    (table,) = tables(tmp_path / "root")
    shutil.rmtree(tmp_path / "root")
    clock = tmp_path / "clock"
    clock.write_text("+0")
    environment = {
        **faked(""),
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_NO_CACHE": "1",
        "PATH": os.environ["PATH"],
        "OMP_NUM_THREADS": "1",
    }
    del environment["FAKETIME"]
    driver = subprocess.Popen(
        [sys.executable, "-m", "jobs.main", "run", str(config)],
        cwd=REPOSITORY,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline, jumps = time.monotonic() + 120, 0
    while driver.poll() is None and time.monotonic() < deadline:
        if list((tmp_path / "root").glob("digits/gradients/*/*/receipts/*")):
            jumps += 1
            clock.write_text("-365d" if jumps % 2 else "+365d")
        time.sleep(0.1)
    _, errors = driver.communicate(timeout=60)
    assert (driver.returncode, jumps > 2) == (0, True), errors
    assert tables(tmp_path / "root") == [table]
    assert mad("verify", tmp_path / "root").code == 0
