"""The points of a sweep's file."""

from pathlib import Path

import pytest
import yaml
from pydantic import JsonValue

from pipeline.errors import ConfigError
from pipeline.operations.grid import Point, Raw, load_points

AUDIT: Raw = {
    "root": "ignored",
    "task": "classification",
    "models": [{"name": "net", "architecture": "net:net", "weights": "net.safetensors"}],
    "data": {"trusted": "trusted.parquet", "audited": "audited.parquet"},
}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "sweep.yaml"


def points(file: Path, grid: Raw, audit: JsonValue = None) -> list[Point]:
    file.write_text(yaml.safe_dump({"audit": audit or AUDIT, "grid": grid}))
    return load_points("/zoo", file)


def test_an_empty_grid_is_one_point_in_the_root_of_the_sweep(file: Path) -> None:
    (point,) = points(file, {})
    assert (point.settings, point.config.root) == ({}, "/zoo")


def test_points_are_all_combinations_in_the_order_of_the_lists(file: Path) -> None:
    found = points(file, {"dampings": [0.5, {"kind": "absolute", "value": 0.1}], "ranks": [4, 8]})
    assert [point.settings for point in found] == [
        {"damping": {"kind": "relative_mean", "factor": 0.5}, "rank": 4},
        {"damping": {"kind": "relative_mean", "factor": 0.5}, "rank": 8},
        {"damping": {"kind": "absolute", "value": 0.1}, "rank": 4},
        {"damping": {"kind": "absolute", "value": 0.1}, "rank": 8},
    ]
    (model,) = found[2].config.models
    assert model.curvature.damping.model_dump() == {"kind": "absolute", "value": 0.1}
    assert (model.gradient.projection.rank, model.gradient.layers) == (4, ("*",))


def test_settings_that_make_the_same_config_are_one_point(file: Path) -> None:
    """The identity has no damping."""
    found = points(file, {"curvatures": ["identity", "block_moment"], "dampings": [0.1, 1.0]})
    assert [point.settings["curvature"] for point in found] == ["identity", "block_moment", "block_moment"]


def test_a_point_overrides_the_sections_of_models(file: Path) -> None:
    model = {"name": "net", "architecture": "net:net", "weights": "w", "score": {"kind": "leverage"}}
    audit: Raw = {
        **AUDIT,
        "models": [model, {**model, "name": "other", "score": {"kind": "class_coupling", "layers": "apart"}}],
    }
    (point,) = points(file, {"scores": ["class_coupling"], "layers": [["conv*"]]}, audit)
    assert [model.score.kind for model in point.config.models] == ["class_coupling"] * 2
    assert point.config.models[1].score.layers == "apart"
    assert [model.gradient.layers for model in point.config.models] == [("conv*",)] * 2


def test_an_audit_can_be_a_path_from_which_its_own_paths_count(file: Path, tmp_path: Path) -> None:
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "audit.yaml").write_text(yaml.safe_dump(AUDIT))
    (point,) = points(file, {}, "configs/audit.yaml")
    assert point.config.folder == str(tmp_path / "configs")


LOSS_TRACE: Raw = {**AUDIT, "estimator": {"kind": "loss_trace", "sampling": "s.parquet"}}


@pytest.mark.parametrize(
    ("grid", "audit", "complaint"),
    [
        ({"dampigs": [1.0]}, AUDIT, r"grid.dampigs: .* \(of dampings, curvatures, scores, layers, ranks\)"),
        ({"ranks": [0]}, AUDIT, r"grid.ranks.0: input should be greater than or equal to 1"),
        (
            {"ranks": [4]},
            LOSS_TRACE,
            r"loss_trace are losses, which are not projected and have no rank; leave ranks out",
        ),
        (
            {"dampings": [1.0 + number for number in range(40)], "ranks": list(range(1, 27))},
            AUDIT,
            r"the grid has 1,040 points, a sweep takes at most 1,000; leave some out",
        ),
    ],
)
def test_a_grid_that_cannot_be_swept_is_refused(file: Path, grid: Raw, audit: Raw, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        points(file, grid, audit)
