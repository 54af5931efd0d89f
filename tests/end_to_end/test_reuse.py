"""What is computed again when something changes, shown by counted tasks."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from pydantic import JsonValue

from pipeline.config.audit_config import AuditConfig
from pipeline.results.audit import Audit
from tests.audits import Counts, Prepared, audited, counts, scores
from tests.conftest import ConfigMaker

ROW_TASKS, AUDITED_TASKS = 8, 4


NOTHING = {"gradients": (0, ROW_TASKS), "curvature": (0, 3), "scoring": (0, AUDITED_TASKS), "reporting": (0, 1)}


def run(config: AuditConfig) -> Audit:
    audit = audited(config)
    assert audit.outcome is not None and audit.outcome.clean
    return audit


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
def test_a_change_computes_only_what_depends_on_it(make_config: ConfigMaker, prepared: Prepared, change: str) -> None:
    sections, expected = CHANGES[change]
    prepared(make_config())
    assert counts(run(make_config(**sections))) == expected


def test_the_same_table_is_not_published_twice(make_config: ConfigMaker, prepared: Prepared) -> None:
    first, second, third = prepared(make_config()), run(make_config()), run(make_config(score={"kind": "leverage"}))
    outcomes = [audit.outcome for audit in (first, second, third) if audit.outcome]
    ids = [outcome.run_id for outcome in outcomes]
    assert second.summary("digits").run_id == ids[2]
    assert [outcome.summaries["digits"].same_as for outcome in outcomes] == [None, ids[0], None]
    published = sorted(path.parent.name for path in Path(first.storage.url).glob("digits/scores/*/*"))
    assert published == [f"run={ids[0]}", f"run={ids[2]}"]


def test_another_projection_is_computed_under_another_key(make_config: ConfigMaker, prepared: Prepared) -> None:
    prepared(make_config())
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
    make_config: ConfigMaker, prepared: Prepared, digits: Path, tmp_path: Path
) -> None:
    prepared(make_config())
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
    for name, rows in (("trusted", 300), ("audited", 4)):
        pq.write_table(pq.read_table(digits / f"{name}.parquet").slice(0, rows), tmp_path / f"{name}.parquet")
    sections: dict[str, JsonValue] = {
        "data": {name: str(tmp_path / f"{name}.parquet") for name in ("trusted", "audited")},
        "calibration": {"target": {"fpr": 0.05}},
    }
    wide = run(make_config(root=str(tmp_path / "wide"), run={"rows_per_task": 1}, **sections))
    flat = run(make_config(root=str(tmp_path / "flat"), **sections))
    assert counts(wide)["curvature"] == (1 + 19 + 2 + 2, 0)
    assert counts(flat)["curvature"] == (3, 0)
    np.testing.assert_allclose(scores(wide), scores(flat), rtol=0, atol=1e-5)
