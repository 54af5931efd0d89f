"""What must not depend on the size of an audit: the small form of `tests.benchmarks.scale`, on generated pictures.

Nothing is said of time, which other processes share.
"""

import json
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file

from infra.storage.storage import Storage
from pipeline.config.audit_config import AuditConfig
from pipeline.planning.from_models import plan_audit
from pipeline.results.audit import open_audit
from tests.benchmarks.network import SIDE, network
from tests.benchmarks.pipeline import TRUSTED, pictures
from tests.benchmarks.run_metadata import ROWS_PER_FILE, RunMetadata, described, keep
from tests.benchmarks.watched import Watched, watched

FILES, ROWS, ROWS_PER_TASK = 8, 150, 50


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, trusted pictures, and files of audited ones."""
    folder = tmp_path_factory.mktemp("scale")
    torch.manual_seed(0)
    save_file(network().state_dict(), folder / "network.safetensors")
    pq.write_table(pictures(TRUSTED, 1), folder / "trusted.parquet")
    for number in range(FILES):
        pq.write_table(pictures(ROWS, 2 + number), folder / f"audited-{number}.parquet")
    return folder


def config(folder: Path, root: str, files: int) -> Path:
    """An audit of the first so many files."""
    raw = {
        "root": str(folder / root),
        "task": "classification",
        "models": [
            {"name": "network", "architecture": "tests.benchmarks.network:network", "weights": "network.safetensors"}
        ],
        "data": {
            "trusted": "trusted.parquet",
            "audited": [f"audited-{number}.parquet" for number in range(files)],
            "preprocess": {"size": SIDE},
        },
        "estimator": {"projection": {"rank": 8}},
        "run": {"rows_per_task": ROWS_PER_TASK},
    }
    path = folder / f"{root}.yaml"
    path.write_text(json.dumps(raw))
    return path


@pytest.fixture(scope="module")
def small(folder: Path) -> Watched:
    return watched(config(folder, "small", 1))


@pytest.fixture(scope="module")
def large(folder: Path) -> Watched:
    return watched(config(folder, "large", FILES))


def test_memory_is_flat_and_nothing_is_lost(small: Watched, large: Watched) -> None:
    assert large.rows == FILES * ROWS and small.rows == ROWS
    assert max(large.memory.values()) < 1.25 * max(small.memory.values())


def test_no_folder_is_listed_for_a_task_and_few_objects_are_written(small: Watched, large: Watched) -> None:
    """Three tasks a file in each of two stages."""
    tasks = sum(large.tasks.values()) - sum(small.tasks.values())
    assert tasks == 6 * (FILES - 1)
    assert sum(large.listings.values()) - sum(small.listings.values()) == 0
    assert large.objects <= 4 * sum(large.tasks.values()) + 16


class Counting(Storage):
    """A storage that counts what it is asked to list: on an object store also what is not there costs a request."""

    asked = 0

    def list(self, folder: str) -> list[str]:
        self.asked += 1
        return super().list(folder)


def test_files_that_are_new_are_not_listed_one_by_one_and_others_twice(folder: Path, tmp_path: Path) -> None:
    files = 40
    plan = described(plan_audit(AuditConfig.load(config(folder, "counted", 1))).models[0], files * ROWS_PER_FILE)
    plan = replace(plan, recipe=plan.recipe.model_copy(update={"rows_per_task": ROWS_PER_FILE}))
    storage = Counting(str(tmp_path))
    tasks, receipts = RunMetadata(plan, storage).run()
    assert tasks == len(receipts) == files and storage.asked == 1
    RunMetadata(plan, storage).publish(receipts)
    assert RunMetadata(plan, storage).run() == (0, receipts)
    assert storage.asked == 2 + 2 * files


def test_the_table_has_every_audited_sample_once_and_in_order(folder: Path, large: Watched) -> None:
    table = open_audit(str(folder / "large")).scores("network").read_all()
    ids = [
        name
        for number in range(FILES)
        for name in pq.read_table(folder / f"audited-{number}.parquet").column("id").to_pylist()
    ]
    assert large.rows == len(ids) and table.column("sample_id").to_pylist() == ids


def test_the_metadata_of_ten_times_the_tasks_holds_all_of_them(folder: Path, tmp_path: Path) -> None:
    """Of samples that are only described: receipts first, as after a driver that was killed; then manifests."""
    path = config(folder, "metadata", 1)
    few, many = (
        keep(AuditConfig.load(path), str(tmp_path / str(files)), files * ROWS_PER_FILE // 256) for files in (1, 10)
    )
    assert few.tasks["gradients"] * 10 == pytest.approx(many.tasks["gradients"], rel=0.05)
    assert many.objects <= 4 * many.tasks["gradients"] + 1
    assert sum(many.listings.values()) <= sum(few.listings.values()) + 8
