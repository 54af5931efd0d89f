"""Audits on Ray, on a disk and on a real S3: drivers and workers are processes of their own, some of them killed."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from infra.storage.storage import Storage
from pipeline.config.audit_config import AuditConfig
from pipeline.operations.verify import verify
from pipeline.planning.from_models import plan_audit
from pipeline.results.audit import open_audit
from pipeline.root.logs import stage_logs
from pipeline.run import run_audit
from tests.audits import link_inputs, only_table, table
from tests.conftest import Raw
from tests.infra.stores import fresh_url
from tests.services import Service, speak_to

REPOSITORY = Path(__file__).parents[2]


PATIENCE = 120


SLOW = '''
"""The demo's classifier, which takes its time and leaves the id of each process that loads it."""

import os
import pathlib
import time

from pipeline.demo.network import digit_cnn


def build(notes):
    pathlib.Path(notes, str(os.getpid())).touch()
    model = digit_cnn()
    model.register_forward_hook(lambda *_: time.sleep(0.1))
    return model
'''


@dataclass
class Place:
    """Where these audits go, and how they are driven."""

    folder: Path
    url: str

    @property
    def notes(self) -> Path:
        """Where processes leave their ids."""
        return self.folder / "notes"

    def config(self, root: str, workers: int = 2) -> Path:
        """A config with this root, of the slow classifier."""
        raw: Raw = {
            "root": f"{self.url}/{root}",
            "task": "classification",
            "models": [
                {
                    "name": "digits",
                    "architecture": "slow.py:build",
                    "kwargs": {"notes": str(self.notes)},
                    "weights": "digits.safetensors",
                }
            ],
            "data": {"trusted": "trusted.parquet", "audited": "audited.parquet", "preprocess": {"size": 8}},
            "run": {"rows_per_task": 64, "batch_size": 32, "workers": workers},
        }
        path = self.folder / f"{root}.yaml"
        path.write_text(json.dumps(raw))
        return path

    def drive(self, root: str, *arguments: str, workers: int = 2) -> "subprocess.Popen[str]":
        """A driver, begun."""
        command = [
            sys.executable,
            "-m",
            "jobs.main",
            "run",
            str(self.config(root, workers)),
            "--executor",
            "ray",
            "--output",
            "json",
            *arguments,
        ]
        return subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def forget(self) -> None:
        """Removes the ids of processes that are gone."""
        for note in self.notes.iterdir():
            note.unlink()

    def done(self, root: str) -> int:
        """How many tasks of rows are done."""
        storage = Storage(f"{self.url}/{root}")
        return sum(len(log.receipts()) for log in stage_logs(storage, "digits", "gradients"))

    def await_rows(self, root: str, driver: "subprocess.Popen[str]") -> None:
        """Waits until some tasks of rows are done, and others are not."""
        deadline = time.monotonic() + PATIENCE
        while self.done(root) < 3:
            assert driver.poll() is None, driver.communicate()
            assert time.monotonic() < deadline, "no row was computed"
            time.sleep(0.05)

    def table(self, root: str) -> bytes:
        """The bytes of the only published table, from a root in which nothing is wrong."""
        storage = Storage(f"{self.url}/{root}")
        assert verify(storage).problems == []
        return only_table(storage)


@pytest.fixture(scope="module", params=["local", pytest.param("s3", marks=pytest.mark.s3)])
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, digits: Path) -> Iterator[Place]:
    """A disk, or a real S3."""
    with pytest.MonkeyPatch.context() as environment:
        if request.param == "s3":
            service: Service = request.getfixturevalue("real_s3")
            speak_to(service.endpoint, service.owner, environment)
        folder = tmp_path_factory.mktemp("ray")
        found = Place(folder, fresh_url(request.param, folder))
        found.notes.mkdir()
        (folder / "slow.py").write_text(SLOW)
        link_inputs(digits, folder)
        yield found


@pytest.fixture(scope="module")
def undisturbed(place: Place) -> bytes:
    """The table of an audit on Ray that nothing disturbed."""
    ended(place.drive("undisturbed", workers=1))
    return place.table("undisturbed")


@pytest.fixture(scope="module")
def serial(place: Place) -> pa.Table:
    """The table of the same audit without Ray."""
    return table(run_audit(plan_audit(AuditConfig.load(place.config("serial")))))


def assert_equal_but_for_rounding(place: Place, root: str, serial: pa.Table) -> None:
    found = table(open_audit(f"{place.url}/{root}"))
    assert found.column("sample_id") == serial.column("sample_id")
    for column in ("score", "confidence", "gradient_norm"):
        np.testing.assert_allclose(found.column(column), serial.column(column), rtol=1e-5, atol=1e-5)


def ended(driver: "subprocess.Popen[str]") -> Raw:
    """What a driver printed that ended well."""
    out, err = driver.communicate(timeout=PATIENCE)
    assert driver.returncode == 0, err
    document: Raw = json.loads(out)
    return document


def longer_on_s3(place: Place) -> None:
    """Skips on S3 what the commit protocol's tests show there too, unless long tests are asked for."""
    if place.url.startswith("s3://") and not os.environ.get("MAD_FAULTS"):
        pytest.skip("takes long; `MAD_FAULTS=1 make test-s3` runs it")


@pytest.mark.faults
def test_runs_on_ray_are_equal_to_the_byte_and_a_third_runs_nothing(place: Place, undisturbed: bytes) -> None:
    ended(place.drive("again"))
    assert place.table("again") == undisturbed
    stages = ended(place.drive("again"))["models"]["digits"]["stages"]  # type: ignore[index,call-overload]
    assert [cost["tasks_run"] for cost in stages.values()] == [0] * 4


@pytest.mark.s3
@pytest.mark.parametrize("place", ["s3"], indirect=True)
def test_a_run_on_ray_is_equal_to_the_serial_one_but_for_rounding(
    place: Place, undisturbed: bytes, serial: pa.Table
) -> None:
    """On a disk, what another driver has completed is."""
    assert undisturbed
    assert_equal_but_for_rounding(place, "undisturbed", serial)


@pytest.mark.faults
def test_a_worker_that_is_killed_costs_time_and_nothing_else(place: Place, undisturbed: bytes) -> None:
    longer_on_s3(place)
    place.forget()
    driver = place.drive("worker-killed")
    place.await_rows("worker-killed", driver)
    worker = next(int(note.name) for note in place.notes.iterdir() if running(int(note.name)))
    os.kill(worker, signal.SIGKILL)
    ended(driver)
    assert place.table("worker-killed") == undisturbed


def test_a_driver_that_is_killed_takes_its_workers_along_and_the_next_one_completes_its_run(
    place: Place, serial: pa.Table
) -> None:
    longer_on_s3(place)
    place.forget()
    driver = place.drive("driver-killed")
    place.await_rows("driver-killed", driver)
    driver.kill()
    driver.communicate()
    workers = [int(note.name) for note in place.notes.iterdir() if int(note.name) != driver.pid]
    deadline = time.monotonic() + PATIENCE
    while any(map(running, workers)):
        assert time.monotonic() < deadline, f"workers {workers} outlive their driver"
        time.sleep(0.2)
    done = place.done("driver-killed")
    again = ended(place.drive("driver-killed", workers=1))
    stages = again["models"]["digits"]["stages"]  # type: ignore[index,call-overload]
    assert (stages["gradients"]["tasks_reused"], stages["gradients"]["tasks_run"] > 0) == (done, True)
    assert place.table("driver-killed")
    assert_equal_but_for_rounding(place, "driver-killed", serial)


def running(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


@pytest.fixture
def two_nodes(place: Place) -> Iterator["subprocess.Popen[str]"]:
    """A cluster of two nodes, in the environment of the store."""
    command = [sys.executable, "-m", "tests.end_to_end.two_nodes"]
    with subprocess.Popen(
        command, cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as host:
        yield host


@pytest.mark.faults
def test_a_node_that_is_lost_costs_time_and_nothing_else(
    place: Place, undisturbed: bytes, two_nodes: "subprocess.Popen[str]"
) -> None:
    assert two_nodes.stdin is not None and two_nodes.stdout is not None
    address = two_nodes.stdout.readline().strip()
    driver = place.drive("node-lost", "--address", address)
    place.await_rows("node-lost", driver)
    print("remove", file=two_nodes.stdin, flush=True)
    assert two_nodes.stdout.readline().strip() == "removed"
    ended(driver)
    assert place.table("node-lost") == undisturbed
