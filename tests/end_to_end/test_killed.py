"""Whenever a run is killed, the next one completes it: only missing tasks run, and the scores are equal to the byte."""

import random
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from infra.storage.storage import Storage
from pipeline.config.sections import Raw
from pipeline.operations.verify import verify
from pipeline.root.layout import published_runs
from pipeline.root.logs import STAGES, stage_logs
from tests.audits import only_table, upload_inputs
from tests.end_to_end.killing import PUBLICATION, AuditProcess, WritesSeen
from tests.infra.relays import relayed
from tests.infra.stores import REAL, fresh_url
from tests.processes import ended
from tests.services import Service, variables

ALL_STAGES = (*STAGES, PUBLICATION)


faults = pytest.mark.faults


@dataclass(frozen=True)
class Undisturbed:
    """A run from start to end: its table's bytes, its moments by stage, its tasks by stage."""

    table: bytes
    moments: Mapping[str, Sequence[int]]
    tasks: dict[str, int]

    def completed_by(self, audit: AuditProcess, storage: Storage, killed_in: str) -> None:
        """Asserts that an audit completes what a killed run left: nothing was public, no finished task runs again."""
        if killed_in != PUBLICATION:
            assert not list(published_runs(storage, "digits")), "a killed run published a table"
        done = committed(storage)
        assert audit.run() == 0
        cost = audit.costs("digits")
        assert {name: cost[name]["tasks_run"] for name in STAGES} == {
            name: self.tasks[name] - done[name] for name in STAGES
        }
        assert {name: cost[name]["tasks_reused"] for name in STAGES} == done
        assert only_table(storage) == self.table
        assert verify(storage).problems == []


def config(root: str, inputs: str = "") -> Raw:
    """Of the demo's inputs, in a folder whose name ends in a slash, or in the config's own."""
    return {
        "root": root,
        "task": "classification",
        "models": [
            {
                "name": "digits",
                "architecture": "pipeline.demo.network:digit_cnn",
                "weights": f"{inputs}digits.safetensors",
            }
        ],
        "data": {
            "trusted": f"{inputs}trusted.parquet",
            "audited": f"{inputs}audited.parquet",
            "preprocess": {"size": 8},
        },
        "run": {"rows_per_task": 128},
    }


def committed(storage: Storage) -> dict[str, int]:
    return {stage: sum(len(log.receipts()) for log in stage_logs(storage, "digits", stage)) for stage in STAGES}


def tasks_of(audit: AuditProcess) -> dict[str, int]:
    return {stage: cost["tasks_run"] for stage, cost in audit.costs("digits").items()}


@pytest.fixture(scope="module")
def on_disk(tmp_path_factory: pytest.TempPathFactory, digits: Path) -> Undisturbed:
    """An undisturbed run on a disk."""
    folder = tmp_path_factory.mktemp("undisturbed")
    audit = AuditProcess(config(str(folder / "root")), digits, folder / "notes.json")
    assert audit.run() == 0
    moments = {stage: [index for index, name in enumerate(audit.moments()) if name == stage] for stage in ALL_STAGES}
    return Undisturbed(only_table(Storage(str(folder / "root"))), moments, tasks_of(audit))


@pytest.mark.parametrize("moments", [1, pytest.param(10, marks=faults)])
@pytest.mark.parametrize("stage", ALL_STAGES)
def test_a_run_killed_on_a_disk_is_completed_by_the_next_with_equal_bytes(
    on_disk: Undisturbed, digits: Path, tmp_path: Path, stage: str, moments: int
) -> None:
    for moment in random.Random(stage).sample(on_disk.moments[stage], moments):
        folder = tmp_path / str(moment)
        folder.mkdir()
        killed, next_one = (
            AuditProcess(config(str(folder / "root")), digits, folder / f"{name}.json") for name in ("killed", "next")
        )
        assert killed.run(kill_at=moment) == -signal.SIGKILL
        assert not killed.notes.exists()
        on_disk.completed_by(next_one, Storage(str(folder / "root")), killed_in=stage)


@dataclass(frozen=True)
class OnS3:
    """Audits in fresh roots on S3, the first process of each behind a relay."""

    service: Service
    inputs: str
    folder: Path

    def audit(self, root: Storage, name: str, endpoint: str) -> AuditProcess:
        """An audit of the inputs whose process knows this endpoint."""
        notes = self.folder / f"{root.url.rpartition('/')[2]}-{name}.json"
        return AuditProcess(
            config(root.url, f"{self.inputs}/"), self.folder, notes, variables(endpoint, self.service.owner)
        )

    def undisturbed(self) -> Undisturbed:
        """A run from start to end."""
        root = Storage(fresh_url("s3"))
        seen = WritesSeen(root.root)
        with relayed(self.service.port, seen) as endpoint:
            audit = self.audit(root, "undisturbed", endpoint)
            process = audit.start()
            seen.watch(process)
            assert ended(process) == 0
        return Undisturbed(
            only_table(root), {stage: range(count) for stage, count in seen.counts.items()}, tasks_of(audit)
        )

    def killed(self, moment: tuple[str, int], done: bool) -> Storage:
        """The root of a run that was killed at this writing request, which the store has done, or has not heard of."""
        root = Storage(fresh_url("s3"))
        seen = WritesSeen(root.root, moment, done)
        with relayed(self.service.port, seen) as endpoint:
            audit = self.audit(root, "killed", endpoint)
            process = audit.start()
            seen.watch(process)
            assert ended(process) == -signal.SIGKILL
            seen.await_end()
        assert not audit.notes.exists()
        return root


@pytest.fixture
def on_service(request: pytest.FixtureRequest, digits: Path, tmp_path: Path) -> OnS3:
    """With the demo's inputs, in a service that the environment of this process names."""
    service: Service = request.getfixturevalue(f"on_{request.param}")
    inputs = Storage(fresh_url("s3"))
    upload_inputs(digits, inputs)
    return OnS3(service, inputs.url, tmp_path)


@pytest.mark.parametrize(
    ("on_service", "moments"),
    [
        pytest.param("moto", 1, marks=faults),
        pytest.param("moto", 5, marks=faults),
        pytest.param("s3", 1, marks=REAL.marks),
    ],
    indirect=["on_service"],
)
def test_a_run_killed_on_s3_is_completed_by_the_next_with_equal_bytes(on_service: OnS3, moments: int) -> None:
    """So many moments of each stage, every other one after the store has done what it was asked."""
    undisturbed, draw, done = on_service.undisturbed(), random.Random(0), False
    for stage in ALL_STAGES:
        for moment in draw.sample(undisturbed.moments[stage], moments):
            root, done = on_service.killed((stage, moment), done), not done
            undisturbed.completed_by(on_service.audit(root, "next", on_service.service.endpoint), root, killed_in=stage)
