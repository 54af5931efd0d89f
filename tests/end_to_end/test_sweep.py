"""A grid of settings on stored rows: its figures are those of runs with each point's settings, and nothing is published."""

from pathlib import Path

import numpy as np
import pytest
import yaml
from pydantic import JsonValue

from pipeline.config.audit_config import AuditConfig
from pipeline.errors import ConfigError
from pipeline.operations.rescore import rescore_audit
from pipeline.operations.sweep import load_points, sweep
from pipeline.planning.from_models import plan_audit
from pipeline.results.audit import Audit
from pipeline.run import run_audit
from tests.conftest import Raw
from tests.end_to_end.sweeps import whole_paths, written
from tests.jobs.command import mad

GRID: Raw = {
    "dampings": [0.1, {"kind": "absolute", "value": 0.5}],
    "curvatures": ["identity", "block_moment"],
    "scores": ["mean_coupling", "leverage"],
}


@pytest.fixture
def base(raw: Raw, digits: Path) -> Raw:
    return whole_paths(raw, digits)


@pytest.fixture
def audited(base: Raw) -> Audit:
    """An audit whose rows are stored."""
    return run_audit(plan_audit(AuditConfig.parse(base)))


def public(root: str) -> set[str]:
    """All files of a root, but for what its stages commit, and its lock's."""
    paths = [path.relative_to(root) for path in Path(root).rglob("*") if path.is_file()]
    return {
        str(path)
        for path in paths
        if path.parts[0] != ".lock" and path.parts[1:2] not in [("curvature",), ("scoring",), ("reporting",)]
    }


def test_each_point_has_the_figures_of_a_rescore_and_nothing_is_published(
    audited: Audit, base: Raw, tmp_path: Path
) -> None:
    root = audited.storage.url
    before = public(root)
    points = load_points(root, written(tmp_path, base, GRID))
    found = sweep(points)
    assert [row["settings"]["curvature"] for row in found] == ["identity"] * 2 + ["block_moment"] * 4  # type: ignore[index,call-overload]
    assert public(root) == before
    last = next(
        row
        for row in found
        if row["settings"]
        == {"curvature": "block_moment", "damping": {"kind": "absolute", "value": 0.5}, "score": "mean_coupling"}
    )
    rescored = rescore_audit(points[int(str(last["point"]))].config)
    summary = rescored.summary("digits").json_object
    assert {name: last[name] for name in ("calibration", "evaluation", "verdict")} == {
        name: summary[name] for name in ("calibration", "evaluation", "verdict")
    }
    assert [cost.tasks_run for cost in rescored.summary("digits").stages.values()] == [0, 0, 0, 0]


def test_the_criterion_is_the_coupling_of_the_calibration_part(audited: Audit, base: Raw, tmp_path: Path) -> None:
    found = sweep(load_points(audited.storage.url, written(tmp_path, base, {"scores": ["mean_coupling", "leverage"]})))
    coupling, leverage = (row["explained"] for row in found)
    assert leverage is None
    assert isinstance(coupling, dict)
    again = sweep(
        load_points(audited.storage.url, written(tmp_path, base, {"scores": ["mean_coupling"], "dampings": [1000.0]}))
    )[0]["explained"]
    assert isinstance(again, dict)
    means = [float(str(one["mean"])) for one in (coupling, again)]
    assert 0 < min(means) < max(means) < 1
    assert not np.isclose(*means)


def test_the_command_goes_on_past_points_that_have_no_rows_and_says_which(
    audited: Audit, base: Raw, tmp_path: Path
) -> None:
    (tmp_path / "audit.yaml").write_text(yaml.safe_dump(base))
    path = written(tmp_path, "audit.yaml", {"curvatures": ["identity", "kfac"]})
    ended = mad("sweep", audited.storage.url, path, "-q")
    assert ended.code == 1
    assert "curvature identity" in ended.out
    assert "point 1: model digits: curvature.kind: kfac is fitted on the moments of layers' sides" in ended.err
    document = mad("sweep", audited.storage.url, path, "-q", "--output", "json").document
    assert [isinstance(row, dict) and "failure" in row for row in document["points"]] == [False, True]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("grid", "complaint"),
    [
        ({"damping": [1]}, "grid.damping: extra inputs are not permitted; a sweep has audit"),
        ({"curvatures": ["hessian"]}, "curvature.kind"),
        ({"curvatures": ["ggn"]}, "ggn is fitted on gradients at labels other than the samples' own"),
    ],
)
def test_a_grid_that_makes_no_sense_is_refused(
    audited: Audit, base: Raw, tmp_path: Path, grid: JsonValue, complaint: str
) -> None:
    with pytest.raises(ConfigError, match=complaint):
        sweep(load_points(audited.storage.url, written(tmp_path, base, grid)))
