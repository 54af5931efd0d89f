"""A grid of settings on stored rows: each point has the figures of a run with its settings; nothing is published."""

from pathlib import Path

import numpy as np
import pytest
import yaml
from pydantic import JsonValue

from pipeline.config.audit_config import AuditConfig
from pipeline.errors import ConfigError
from pipeline.operations.grid import load_points
from pipeline.operations.rescore import rescore_audit
from pipeline.operations.sweep import sweep
from pipeline.results.audit import Audit
from tests.audits import Prepared, counts, with_inputs
from tests.conftest import Raw
from tests.end_to_end.sweeps import written
from tests.jobs.command import mad

GRID: Raw = {
    "dampings": [0.1, {"kind": "absolute", "value": 0.5}],
    "curvatures": ["identity", "block_moment"],
    "scores": ["mean_coupling", "leverage"],
}


@pytest.fixture
def base(raw: Raw, digits: Path) -> Raw:
    return with_inputs(raw, str(digits))


@pytest.fixture
def audited(base: Raw, prepared: Prepared) -> Audit:
    """An audit whose rows are stored."""
    return prepared(AuditConfig.parse(base))


def public(root: str) -> set[str]:
    """All files of a root except its lock's and what its stages commit."""
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
    curvatures = [row["settings"]["curvature"] for row in found]  # type: ignore[index,call-overload]
    assert curvatures == ["identity"] * 2 + ["block_moment"] * 4
    assert public(root) == before
    damping: JsonValue = {"kind": "absolute", "value": 0.5}
    wanted = {"curvature": "block_moment", "damping": damping, "score": "mean_coupling"}
    last = next(row for row in found if row["settings"] == wanted)
    rescored = rescore_audit(points[int(str(last["point"]))].config)
    summary = rescored.summary("digits").json_object
    for name in ("calibration", "evaluation", "verdict"):
        assert last[name] == summary[name]
    assert [run for run, _ in counts(rescored).values()] == [0, 0, 0, 0]


def test_the_criterion_is_the_coupling_of_the_calibration_part(audited: Audit, base: Raw, tmp_path: Path) -> None:
    found = sweep(load_points(audited.storage.url, written(tmp_path, base, {"scores": ["mean_coupling", "leverage"]})))
    coupling, leverage = (row["explained"] for row in found)
    assert leverage is None
    assert isinstance(coupling, dict)
    damped = written(tmp_path, base, {"scores": ["mean_coupling"], "dampings": [1000.0]})
    again = sweep(load_points(audited.storage.url, damped))[0]["explained"]
    assert isinstance(again, dict)
    means = [float(str(one["mean"])) for one in (coupling, again)]
    assert 0 < min(means) < max(means) < 1
    assert not np.isclose(*means)


def test_the_command_continues_past_points_that_have_no_rows_and_names_them(
    audited: Audit, base: Raw, tmp_path: Path
) -> None:
    (tmp_path / "audit.yaml").write_text(yaml.safe_dump(base))
    path = written(tmp_path, "audit.yaml", {"curvatures": ["identity", "kfac"]})
    ended = mad("sweep", audited.storage.url, path, "-q")
    assert ended.code == 1
    assert "curvature identity" in ended.out
    assert "point 1: model digits: curvature.kind: kfac is fitted on the moments of layers' sides" in ended.err
    document = mad("sweep", audited.storage.url, path, "-q", "--output", "json").document
    points = document["points"]
    assert isinstance(points, list)
    assert [isinstance(row, dict) and "failure" in row for row in points] == [False, True]


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
