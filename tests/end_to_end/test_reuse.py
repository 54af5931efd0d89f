"""What is computed again when something changes, shown by counted tasks."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from pydantic import JsonValue

from pipeline.config.audit_config import AuditConfig
from pipeline.planning.from_models import plan_audit
from pipeline.results.audit import Audit
from pipeline.run import run_audit
from tests.conftest import ConfigMaker

Counts = dict[str, tuple[int, int]]


ROW_TASKS, AUDITED_TASKS = 8, 4


NOTHING = {"gradients": (0, ROW_TASKS), "curvature": (0, 3), "scoring": (0, AUDITED_TASKS), "reporting": (0, 1)}


def run(config: AuditConfig) -> Audit:
    audit = run_audit(plan_audit(config))
    assert audit.outcome is not None and audit.outcome.clean
    return audit


def counts(audit: Audit) -> Counts:
    """(tasks run, tasks reused) by stage."""
    assert audit.outcome is not None
    return {stage: (cost.tasks_run, cost.tasks_reused) for stage, cost in audit.outcome.stages["digits"].items()}


CHANGES: dict[str, tuple[dict[str, JsonValue], Counts]] = {
    "nothing": ({}, NOTHING),
    "batch size and workers": ({"run": {"batch_size": 17, "workers": 1}}, NOTHING),
    "damping": (
        {"curvature": {"damping": {"factor": 0.1}}},
        {**NOTHING, "curvature": (3, 0), "scoring": (AUDITED_TASKS, 0), "reporting": (1, 0)},
    ),
    "curvature": (
        {"curvature": {"kind": "identity"}},
        {**NOTHING, "curvature": (2, 0), "scoring": (AUDITED_TASKS, 0), "reporting": (1, 0)},
    ),
    "score": (
        {"score": {"kind": "mean_coupling"}},
        {**NOTHING, "curvature": (1, 2), "scoring": (AUDITED_TASKS, 0), "reporting": (1, 0)},
    ),
    "split": (
        {"calibration": {"seed": 1}},
        {**NOTHING, "curvature": (3, 0), "scoring": (AUDITED_TASKS, 0), "reporting": (1, 0)},
    ),
    "target": ({"calibration": {"target": {"fdr": 0.05}}}, {**NOTHING, "reporting": (1, 0)}),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_computes_only_what_depends_on_it(make_config: ConfigMaker, change: str) -> None:
    sections, expected = CHANGES[change]
    run(make_config())
    assert counts(run(make_config(**sections))) == expected


def test_the_same_table_is_not_published_twice(make_config: ConfigMaker) -> None:
    first, second, third = (run(make_config(**sections)) for sections in ({}, {}, {"score": {"kind": "leverage"}}))
    ids = [audit.outcome.run_id for audit in (first, second, third) if audit.outcome]
    assert second.summary("digits").run_id == ids[2]
    assert [audit.outcome.summaries["digits"].same_as for audit in (first, second, third) if audit.outcome] == [
        None,
        ids[0],
        None,
    ]
    published = sorted(path.parent.name for path in Path(first.storage.url).glob("digits/scores/*/*"))
    assert published == [f"run={ids[0]}", f"run={ids[2]}"]


def test_another_projection_is_computed_under_another_key(make_config: ConfigMaker) -> None:
    run(make_config())
    for count, projection in enumerate(({"seed": 1}, {"kind": "gaussian"}, {"sketch": 20}), 2):
        other = run(make_config(estimator={"projection": projection}))
        assert counts(other)["gradients"] == (ROW_TASKS, 0)
        assert len(list(Path(other.storage.url).glob("digits/gradients/*"))) == count


@pytest.fixture
def in_days(digits: Path, tmp_path: Path) -> Callable[[int], None]:
    """Writes the audited set as files of 100 rows, day by day."""
    table = pq.read_table(digits / "audited.parquet")

    def write(day: int) -> None:
        pq.write_table(table.slice(100 * day, 100), tmp_path / f"day{day}.parquet")

    return write


def test_an_added_file_costs_only_itself_and_a_changed_one_is_noticed(
    make_config: ConfigMaker, in_days: Callable[[int], None], tmp_path: Path
) -> None:
    data: JsonValue = {"audited": str(tmp_path / "day*.parquet")}
    in_days(0)
    in_days(1)
    assert counts(run(make_config(data=data)))["scoring"] == (2, 0)
    in_days(2)
    added = counts(run(make_config(data=data)))
    assert (added["gradients"], added["curvature"], added["scoring"]) == ((1, 6), (0, 3), (1, 2))
    table = pq.read_table(tmp_path / "day1.parquet")
    pq.write_table(table.slice(0, 50), tmp_path / "day1.parquet")
    changed = counts(run(make_config(data=data)))
    assert (changed["gradients"], changed["scoring"]) == ((1, 6), (1, 2))


def test_a_changed_trusted_set_leaves_the_audited_rows_alone(
    make_config: ConfigMaker, digits: Path, tmp_path: Path
) -> None:
    run(make_config())
    pq.write_table(pq.read_table(digits / "trusted.parquet").slice(0, 400), tmp_path / "fewer.parquet")
    fewer = counts(run(make_config(data={"trusted": str(tmp_path / "fewer.parquet")})))
    assert fewer == {
        "gradients": (4, AUDITED_TASKS),
        "curvature": (3, 0),
        "scoring": (AUDITED_TASKS, 0),
        "reporting": (1, 0),
    }


def test_the_curvature_of_many_parts_is_a_tree_and_the_same_curvature(
    make_config: ConfigMaker, digits: Path, tmp_path: Path
) -> None:
    """300 parts of one trusted sample each: 19 sums of 16, 2 sums of those, and what is left for `factor`."""
    pq.write_table(pq.read_table(digits / "trusted.parquet").slice(0, 300), tmp_path / "trusted.parquet")
    sections: dict[str, JsonValue] = {
        "data": {"trusted": str(tmp_path / "trusted.parquet")},
        "calibration": {"target": {"fpr": 0.05}},
    }
    wide = run(make_config(root=str(tmp_path / "wide"), run={"rows_per_task": 1}, **sections))
    flat = run(make_config(root=str(tmp_path / "flat"), **sections))
    assert counts(wide)["curvature"] == (1 + 19 + 2 + 2, 0)
    assert counts(flat)["curvature"] == (3, 0)
    scores = [audit.scores("digits").read_all().column("score").to_numpy() for audit in (wide, flat)]
    np.testing.assert_allclose(scores[0], scores[1], rtol=0, atol=1e-5)
