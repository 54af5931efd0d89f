"""Roots that released versions wrote (`tests/data/roots`): this version reads each of them, and continues it."""

import json
import re
import shutil
from pathlib import Path

import pytest
from pydantic import JsonValue

from infra.storage.storage import Storage
from jobs.rendering.plans import plan_text
from pipeline.config.audit_config import AuditConfig
from pipeline.config.sections import Raw
from pipeline.operations.verify import verify
from pipeline.planning.from_models import plan_audit
from pipeline.results.audit import open_audit
from pipeline.root.layout import published_runs
from pipeline.run import run_audit
from tests.data.roots_of_releases import ROOTS, expected_of, nights, releases, upload_inputs
from tests.jobs.command import mad
from tests.pipeline.operations.two_nights import collected
from tests.services import Service

MODELS = ["factored", "plain", "traced"]


LARGEST_BYTES = 500_000


PLACES = re.compile(rb"/(home|work|Users|mnt|workspace)/[A-Za-z]|file://")


@pytest.fixture(params=releases())
def release(request: pytest.FixtureRequest) -> str:
    """A released version."""
    found: str = request.param
    return found


@pytest.fixture
def root(release: str, tmp_path: Path) -> Path:
    """A copy of its root."""
    return Path(shutil.copytree(ROOTS / release / "root", tmp_path / "root"))


@pytest.fixture
def expected(release: str) -> dict[str, dict[str, JsonValue]]:
    """What that version read in it, by model."""
    found: dict[str, dict[str, JsonValue]] = json.loads((ROOTS / release / "expected.json").read_text())
    return found


def test_all_that_it_read_this_version_reads(root: Path, expected: dict[str, dict[str, JsonValue]]) -> None:
    audit = open_audit(str(root))
    assert audit.models == MODELS == sorted(expected)
    for name in MODELS:
        assert expected_of(audit, name) == expected[name]
        for split in ("trusted", "audited"):
            assert (audit.rows(name, split).compute() != 0).any(axis=1).all()  # type: ignore[arg-type]


def test_all_of_it_is_as_written(root: Path) -> None:
    found = verify(Storage(str(root)))
    assert found.problems == []
    assert (found.unclaimed_attempts, found.superseded_manifests) == (0, 0)
    assert found.tables == 4 and found.receipts > 30


@pytest.mark.parametrize("command", ["status", "verify", "inspect", "report"])
def test_every_command_that_reads_reads_it(root: Path, command: str) -> None:
    ended = mad(command, root)
    assert (ended.code, "Traceback" in ended.err) == (0, False)
    assert mad(command, root, "--output", "json").document
    if command != "verify":
        assert all(name in ended.out for name in MODELS)


@pytest.mark.parametrize("model", MODELS)
def test_each_score_of_it_is_explained(root: Path, expected: dict[str, dict[str, JsonValue]], model: str) -> None:
    rows = expected[model]["scores"]
    assert isinstance(rows, list)
    (sample, score, *_), *_ = [row for row in rows if isinstance(row, list) and row[3]]
    ended = mad("explain", root, "--model", model, "--sample", str(sample), "--output", "json")
    (row,) = ended.document["rows"]  # type: ignore[misc]
    assert ended.code == 0 and isinstance(row, dict)
    assert row["score"] == score and row["top_trusted"]


def test_its_pages_are_rendered(root: Path) -> None:
    assert mad("report", root).code == 0
    views = {f"{name}.{view}" for name in MODELS for view in ("html", "history.json")}
    assert {path.name for path in (root / "report").iterdir()} == {"index.html", *views}
    for name in MODELS:
        page = (root / "report" / f"{name}.html").read_text()
        assert name in page and "digit-" in page


def moved(config: Raw, root: Path) -> AuditConfig:
    """A night's config, in a copy of the root."""
    return AuditConfig.parse({**config, "root": str(root)}, "/")


def test_the_next_night_goes_on_in_it(
    release: str, root: Path, expected: dict[str, dict[str, JsonValue]], on_moto: Service
) -> None:
    """Rows are computed again once, as the plan says; what was there is not changed, and old runs can be removed."""
    upload_inputs(release)
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file() and path.name != "summary.json"}
    plan = plan_audit(moved(nights(release, "")[1], root))
    assert all("stored rows by earlier rules: images and columns" in model.recomputed for model in plan.models)
    assert "plain: all rows are computed again, once: run " in " ".join(plan_text(plan).split())
    audit = run_audit(plan)
    assert (
        audit.outcome is not None
        and audit.outcome.clean
        and list(audit.outcome.summaries) == ["plain", "factored", "traced"]
    )
    assert all(path.read_bytes() == data for path, data in before.items())
    for name in audit.outcome.summaries:
        assert audit.outcome.stages[name]["gradients"].tasks_reused == 0
        rows = audit.scores(name).read_all()
        assert [[row[0], row[3]] for row in expected[name]["scores"]] == [  # type: ignore[union-attr,index]
            [row["sample_id"], row["flagged"]] for row in rows.to_pylist()
        ]
    assert verify(audit.storage).problems == []
    again = plan_audit(plan.config)
    assert [model.recomputed for model in again.models] == ["", "", ""]
    third = run_audit(again).outcome
    assert third is not None and not any(third.stages[name]["gradients"].tasks_run for name in MODELS)
    collected(audit.storage, 0.0)
    assert verify(audit.storage).problems == []
    assert all(next(published_runs(audit.storage, name)) for name in MODELS)


def test_a_root_is_small_and_names_no_place_of_the_machine_it_was_made_on(release: str) -> None:
    files = [path for path in (ROOTS / release).rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert sum(path.stat().st_size for path in files) < LARGEST_BYTES
    assert not [path for path in files if ".lock" in path.parts]
    told = [path for path in files if path.suffix in (".json", ".yaml") and PLACES.search(path.read_bytes())]
    assert told == []
