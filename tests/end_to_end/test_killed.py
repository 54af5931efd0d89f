"""Whatever moment a run is killed at, the next one completes it: only missing tasks run, and the scores are the same bytes."""

import json
import signal
from dataclasses import dataclass
from pathlib import Path

import pytest

from infra.storage import Storage
from pipeline.artifacts.logs import STAGES, stage_logs
from pipeline.config import Raw
from pipeline.verify import verify
from tests.end_to_end.killing import PUBLICATION, audit_in_process

MOMENTS_PER_STAGE = 10


@dataclass(frozen=True)
class Undisturbed:
    """A run from start to end: its table's bytes, the stage of each of its moments, its tasks by stage."""

    table: bytes
    moments: list[str]
    tasks: dict[str, int]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, digits: Path) -> Undisturbed:
    folder = tmp_path_factory.mktemp("undisturbed")
    assert audit_in_process(config(folder), digits, folder / "notes.json") == 0
    notes = json.loads((folder / "notes.json").read_text())
    tasks = {stage: cost["tasks_run"] for stage, cost in notes["stages"]["digits"].items()}
    return Undisturbed(table(folder / "root"), notes["moments"], tasks)


def config(folder: Path) -> Raw:
    return {
        "root": str(folder / "root"),
        "task": "classification",
        "models": [{"name": "digits", "architecture": "pipeline.demo.network:digit_cnn", "weights": "digits.safetensors"}],
        "data": {"trusted": "trusted.parquet", "audited": "audited.parquet", "preprocess": {"size": 8}},
        "run": {"rows_per_task": 128},
    }


def table(root: Path) -> bytes:
    published = list(root.glob("digits/scores/run=*/*.parquet"))
    assert len(published) == 1, f"expected exactly one published table, found {published}"
    return published[0].read_bytes()


def committed(root: Path) -> dict[str, int]:
    storage = Storage(str(root))
    return {stage: sum(len(log.receipts()) for log in stage_logs(storage, "digits", stage)) for stage in STAGES}


def moments_of(undisturbed: Undisturbed, stage: str) -> list[int]:
    """Ten moments of a stage, evenly spread from its first to its last."""
    own = [index for index, name in enumerate(undisturbed.moments) if name == stage]
    assert len(own) >= MOMENTS_PER_STAGE, f"{stage} has only {len(own)} moments"
    return [own[round(place * (len(own) - 1) / (MOMENTS_PER_STAGE - 1))] for place in range(MOMENTS_PER_STAGE)]


@pytest.mark.parametrize("stage", [*STAGES, PUBLICATION])
def test_a_killed_run_is_completed_by_the_next_with_equal_bytes(undisturbed: Undisturbed, digits: Path, tmp_path: Path, stage: str) -> None:
    for number, moment in enumerate(moments_of(undisturbed, stage)):
        folder = tmp_path / str(number)
        folder.mkdir()
        assert audit_in_process(config(folder), digits, folder / "killed.json", kill_at=moment) == -signal.SIGKILL
        assert not (folder / "killed.json").exists()
        if stage != PUBLICATION:
            assert not list((folder / "root").glob("digits/scores/run=*/*")), "a killed run published a table"
        done = committed(folder / "root")
        assert audit_in_process(config(folder), digits, folder / "resumed.json") == 0
        cost = json.loads((folder / "resumed.json").read_text())["stages"]["digits"]
        assert {name: cost[name]["tasks_run"] for name in STAGES} == {name: undisturbed.tasks[name] - done[name] for name in STAGES}
        assert {name: cost[name]["tasks_reused"] for name in STAGES} == done
        assert table(folder / "root") == undisturbed.table
        assert verify(Storage(str(folder / "root"))).problems == []
