"""What runs recorded of data files: the latest record counts, whichever model and split it is of."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from infra.formats.data.contract import Layout
from infra.storage.files import digest
from infra.storage.identity import InputFile
from infra.storage.storage import Storage
from pipeline.planning.earlier_runs.known_files import KnownFiles
from pipeline.root.layout import run_file
from pipeline.root.records import ModelRecord, RunRecord
from pipeline.root.runs import Runs
from tests.input_files import found, put_in_place
from tests.pipeline.planning.plans import model_config, row_recipe, source

FIRST, SECOND, THIRD = (f"2026010{day}T000000000Z-aaaaaaaa" for day in (1, 2, 3))


@pytest.fixture
def file(tmp_path: Path) -> InputFile:
    path = tmp_path / "day.parquet"
    path.write_bytes(b"some rows")
    return found(path)


def record(storage: Storage, run_id: str, **models: ModelRecord) -> None:
    storage.create(run_file(run_id), RunRecord(run_id=run_id, models=models).encode())


def planned(file: InputFile) -> ModelRecord:
    return ModelRecord(sources={"key": file})


def sampled(file: InputFile) -> ModelRecord:
    recipe = row_recipe(sampling=(replace(source("clean.parquet", 9), file=file),))
    return ModelRecord(rows=recipe.model_dump(mode="json"))


@pytest.mark.parametrize("entry", [planned, sampled])
def test_the_latest_record_counts_whatever_model_it_is_of(
    tmp_path: Path, file: InputFile, entry: Callable[[InputFile], ModelRecord]
) -> None:
    storage = Storage(str(tmp_path / "root"))
    earlier, later = replace(file, contents="earlier"), replace(file, contents="later")
    record(storage, FIRST, net=planned(earlier))
    record(storage, SECOND, other=entry(later))
    assert KnownFiles(Runs(storage)).identify(file, model_config()).contents == "later"
    record(storage, THIRD, net=ModelRecord(), other=ModelRecord())
    assert KnownFiles(Runs(storage)).identify(file, model_config()).contents == ""


def test_a_replaced_file_is_read_once_for_all_models(tmp_path: Path, file: InputFile) -> None:
    storage, path = Storage(str(tmp_path / "root")), tmp_path / "day.parquet"
    record(storage, FIRST, net=planned(replace(file, contents=digest(b"some rows"))))
    put_in_place(path, b"SOME ROWS")
    known, now = KnownFiles(Runs(storage)), found(path)
    for name in ("net", "other"):
        identified = known.identify(now, model_config(name))
        assert (identified.contents, identified.by_contents) == (digest(b"SOME ROWS"), True)
        path.unlink(missing_ok=True)  # it was read


def test_how_rows_are_found_is_recalled_of_the_same_file_alone(tmp_path: Path, file: InputFile) -> None:
    storage, layout = Storage(str(tmp_path / "root")), Layout("csv", "schema", ((0, 3), (1024, 9000)), ("id",), ";")
    recipe = row_recipe(trusted=(replace(source("day.csv", 1500), file=file, layout=layout),))
    record(storage, FIRST, net=ModelRecord(rows=recipe.model_dump(mode="json")))
    known = KnownFiles(Runs(storage))
    assert known.recall(file, model_config()) == (layout, 1500)
    assert known.recall(replace(file, size=10), model_config()) is None
    assert known.recall(replace(file, url="/elsewhere"), model_config()) is None
