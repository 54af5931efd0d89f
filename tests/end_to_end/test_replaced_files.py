"""Data files that are replaced, touched or copied: before a run, while it runs, and between two nights.

The files are replaced so that their size, and unless said otherwise their time of modification, stay the same.
"""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from infra.errors import Changed
from infra.events import Event, StageStarted
from pipeline.config.audit_config import AuditConfig
from pipeline.config.sections import Raw
from pipeline.data.identities import identify
from pipeline.planning.from_models import plan_audit
from pipeline.root.layout import run_file
from pipeline.run import run_audit
from pipeline.stages.curvature import worker as curvature_worker
from pipeline.stages.gradients import worker as rows_worker
from pipeline.stages.reporting import worker as reporting_worker
from tests.audits import INPUTS, audited, counts, table
from tests.input_files import found, put_in_place, write_over
from tests.servers import served

ALL, NONE, AUDITED = (8, 0), (0, 8), (4, 4)

CHANGED = "audited.parquet: changed while the audit ran (another file of the same size and time is in its place"


@pytest.fixture
def inputs(digits: Path, tmp_path: Path) -> Path:
    """A folder of inputs of its own, the audited ones without compression, so that their order leaves their size."""
    folder = tmp_path / "inputs"
    folder.mkdir()
    for name in INPUTS:
        shutil.copy(digits / name, folder)
    write(folder / "audited.parquet", backwards=False)
    return folder


def write(path: Path, *, backwards: bool) -> None:
    samples = pq.read_table(path)
    samples = samples.take(list(range(len(samples)))[::-1]) if backwards else samples
    pq.write_table(samples, path, compression="none", use_dictionary=False, write_statistics=False)


def turned(path: Path) -> bytes:
    """A file's samples backwards, as a file of the same size."""
    other = path.with_name("other")
    shutil.copy(path, other)
    write(other, backwards=True)
    assert other.stat().st_size == path.stat().st_size and other.read_bytes() != path.read_bytes()
    return other.read_bytes()


def config_of(raw: Raw, inputs: Path | str, **data: str) -> AuditConfig:
    files = {split: f"{inputs}/{split}.parquet" for split in ("trusted", "audited")}
    own = raw["data"]
    assert isinstance(own, dict)
    return AuditConfig.parse({**raw, "data": {**own, **files, **data}}, str(raw["root"]).rpartition("/")[0])


@pytest.fixture
def config(raw: Raw, inputs: Path) -> AuditConfig:
    """An audit of these inputs."""
    return with_weights(raw, inputs)


def with_weights(raw: Raw, inputs: Path, data: Path | str = "", **more: str) -> AuditConfig:
    (model,) = raw["models"]  # type: ignore[misc]
    own = {**model, "weights": str(inputs / "digits.safetensors")}
    return config_of({**raw, "models": [own]}, data or inputs, **more)


@pytest.mark.parametrize("change", [put_in_place, write_over])
def test_a_file_that_is_replaced_after_planning_stores_nothing(
    config: AuditConfig, inputs: Path, change: Callable[[Path, bytes], None]
) -> None:
    plan, path = plan_audit(config), inputs / "audited.parquet"
    change(path, turned(path))
    outcome = run_audit(plan).outcome
    assert outcome is not None
    assert len(outcome.failed_tasks["digits"]) == 4
    assert all(CHANGED in reason and reason.endswith("run again") for reason in outcome.failed_tasks["digits"])
    assert not list(Path(config.root).glob(f"digits/gradients/*/{plan.models[0].audited[0].key}/receipts/*"))
    again = audited(config)
    assert counts(again)["gradients"] == AUDITED
    first = pq.read_table(path).column("id")[0].as_py()
    assert table(again).column("sample_id")[0].as_py() == str(first)


def test_a_trusted_file_that_is_replaced_after_planning_fails_the_model(config: AuditConfig, inputs: Path) -> None:
    plan, path = plan_audit(config), inputs / "trusted.parquet"
    put_in_place(path, bytes(path.stat().st_size))
    outcome = run_audit(plan).outcome
    assert outcome is not None and not outcome.summaries
    reason = outcome.failures["digits"]
    assert "nothing complete to compare with" in reason and "trusted.parquet: changed while the audit ran" in reason


@pytest.mark.parametrize(("stage", "split"), [("curvature", "trusted"), ("reporting", "audited")])
def test_labels_and_truth_are_of_the_file_whose_rows_they_meet(
    config: AuditConfig, inputs: Path, stage: str, split: str
) -> None:
    path = inputs / f"{split}.parquet"

    def listener(event: Event) -> None:
        if isinstance(event, StageStarted) and event.stage == stage:
            put_in_place(path, path.read_bytes()[::-1])

    outcome = run_audit(plan_audit(config), listener=listener).outcome
    assert outcome is not None and not outcome.summaries
    assert f"{split}.parquet: changed while the audit ran (another file" in outcome.failures["digits"]


LATE = {
    "gradients": (rows_worker, "encode_rows", "trusted"),
    "curvature": (curvature_worker, "encode_trusted", "trusted"),
    "reporting": (reporting_worker, "build_report", "audited"),
}


@pytest.mark.parametrize("stage", LATE)
def test_what_was_made_of_a_file_is_not_committed_once_another_has_its_place(
    config: AuditConfig, inputs: Path, stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After all of it was read, and compared."""
    module, last_step, split = LATE[stage]
    path, step = inputs / f"{split}.parquet", getattr(module, last_step)

    def late(*args: object) -> object:
        put_in_place(path, bytes(path.stat().st_size))
        return step(*args)

    monkeypatch.setattr(module, last_step, late)
    plan = plan_audit(config)
    outcome = run_audit(plan).outcome
    assert outcome is not None and not outcome.summaries
    assert f"{split}.parquet: changed while the audit ran (another file" in outcome.failures["digits"]
    of_file = f"*/{plan.models[0].trusted[0].key}" if stage == "gradients" else "**"
    assert not list(Path(config.root).glob(f"digits/{stage}/{of_file}/receipts/*"))


SAME: dict[str, Callable[[Path], object]] = {
    "chmod": lambda path: path.chmod(0o600),
    "another link": lambda path: os.link(path, path.with_name(f"backup-of-{path.name}")),
    "a restored copy": lambda path: put_in_place(path, path.read_bytes()),
}


def test_a_file_whose_contents_are_the_same_keeps_its_rows(config: AuditConfig, inputs: Path) -> None:
    audited(config)
    for change in SAME.values():
        change(inputs / "audited.parquet")
        change(inputs / "trusted.parquet")
        assert counts(audited(config))["gradients"] == NONE


def test_a_file_that_was_replaced_since_the_last_run_is_computed_again(config: AuditConfig, inputs: Path) -> None:
    path = inputs / "audited.parquet"
    first = audited(config)
    before = path.read_bytes()
    for data in (turned(path), before):
        put_in_place(path, data)
        assert counts(audited(config))["gradients"] == AUDITED
        assert counts(audited(config))["gradients"] == NONE
        path.chmod(0o640)
        assert counts(audited(config))["gradients"] == NONE
    assert table(audited(config)) == table(first)


def test_identified_by_its_contents_a_file_may_be_touched(raw: Raw, inputs: Path) -> None:
    config, path = with_weights(raw, inputs, identity="contents"), inputs / "audited.parquet"
    assert counts(audited(config))["gradients"] == ALL
    os.utime(path, (0, 1))
    assert counts(audited(config))["gradients"] == NONE
    path.write_bytes(path.read_bytes())
    assert counts(audited(config))["gradients"] == NONE
    put_in_place(path, turned(path))
    assert counts(audited(config))["gradients"] == AUDITED


def test_over_http_a_new_file_of_equal_size_is_another_one(raw: Raw, inputs: Path) -> None:
    """Also from a server that tells nothing of a file but its size."""
    with served(inputs) as url:
        config, path = with_weights(raw, inputs, url), inputs / "audited.parquet"
        assert counts(audited(config))["gradients"] == ALL
        assert counts(audited(config))["gradients"] == NONE
        plan = plan_audit(config.model_copy(update={"root": f"{config.root}-of-another"}))
        write_over(path, turned(path))
        outcome = run_audit(plan).outcome
        assert outcome is not None and len(outcome.failed_tasks["digits"]) == 4
        assert all("audited.parquet: changed while" in reason for reason in outcome.failed_tasks["digits"])
        assert counts(audited(config))["gradients"] == AUDITED


def test_rows_of_files_that_only_their_size_told_apart_are_computed_again_and_the_plan_says_so(
    raw: Raw, inputs: Path
) -> None:
    with served(inputs) as url:
        config = with_weights(raw, inputs, url)
        outcome = audited(config).outcome
        assert outcome is not None
        path = Path(config.root) / run_file(outcome.run_id)
        record = json.loads(path.read_bytes())
        for file in record["models"]["digits"]["sources"].values():
            del file["contents"], file["by_contents"]
            file["version"] = "None"  # as versions before this one recorded it
        path.write_text(json.dumps(record))
        (model,) = plan_audit(config).models
        assert "told files from others by their size alone" in model.recomputed


def test_a_file_that_changes_while_it_is_planned_is_refused(config: AuditConfig, inputs: Path) -> None:
    path, model = inputs / "audited.parquet", config.models[0]
    file = found(path)
    put_in_place(path, turned(path))
    contents = model.model_copy(update={"data": model.data.model_copy(update={"identity": "contents"})})
    assert identify(file, model) == file
    with pytest.raises(Changed, match=r"audited\.parquet: changed while the audit ran"):
        identify(file, contents)
