"""Ranks below the stored one: points have the figures of runs at those ranks, and each a curvature of its own."""

import re
from collections.abc import Mapping, Set
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from pydantic import JsonValue

from pipeline.artifacts.rows import SCORING_BLOCK
from pipeline.config.audit_config import AuditConfig, merge
from pipeline.errors import ConfigError
from pipeline.operations.grid import load_points
from pipeline.operations.sweep import sweep
from pipeline.planning.from_rows import plan_point, plan_rescore
from pipeline.results.audit import Audit
from pipeline.root.facts import Calibration, Evaluation
from tests.audits import Prepared, audited, with_inputs
from tests.conftest import Raw
from tests.end_to_end.sweeps import written
from tests.jobs.command import mad

HALF = 1e-4
"""Each number at rest is off by 2^-11 of itself at most, float16's rounding, in both runs.

A score sums the errors of hundreds of numbers, whose signs differ, so that they almost cancel (1e-5 is seen). Scores of
another rank are off by more than 0.2.
"""


def at_rank(base: Raw, rank: int, **sections: JsonValue) -> Raw:
    return merge(base, {"estimator": {"projection": {"rank": rank}}, **sections})


@pytest.fixture
def base(raw: Raw, digits: Path) -> Raw:
    """The demo's config at rank 8."""
    return at_rank(with_inputs(raw, str(digits)), 8)


@pytest.fixture
def at_rank_8(base: Raw, prepared: Prepared) -> Audit:
    """An audit whose rows are stored at rank 8."""
    return prepared(AuditConfig.parse(base))


def files_with_times(root: str) -> dict[Path, int]:
    """When each file of a root was changed, except its lock's."""
    paths = (path for path in Path(root).rglob("*") if path.is_file() and ".lock" not in path.parts)
    return {path: path.stat().st_mtime_ns for path in paths}


def scores(root: JsonValue, known: Set[Path] = frozenset()) -> dict[str, float]:
    """Committed scores of a root's audited samples, by id, except those of known folders."""
    columns = [
        pq.read_table(path, partitioning=None, columns=["sample_id", "score"]).to_pydict()
        for folder in sorted(set(Path(str(root)).glob("digits/scoring/*")) - known)
        for path in folder.rglob("*.parquet")
    ]
    return dict(sorted(pair for column in columns for pair in zip(column["sample_id"], column["score"], strict=True)))


def numbers(document: Mapping[str, JsonValue]) -> tuple[float, float]:
    """The AUROC and the threshold of a sweep's point or of a run's summary."""
    main = Evaluation.model_validate(document["evaluation"]).main
    threshold = Calibration.model_validate(document["calibration"]).threshold
    assert main is not None and main.auroc is not None and threshold is not None
    return main.auroc, threshold


@pytest.mark.parametrize("layers", [["*"], ["!8"]], ids=["all layers", "fewer layers"])
@pytest.mark.parametrize("curvature", ["block_moment", "fisher"])
def test_a_lower_rank_has_the_figures_of_a_run_at_that_rank(
    base: Raw, prepared: Prepared, tmp_path: Path, curvature: str, layers: list[str]
) -> None:
    base = merge(base, {"curvature": {"kind": curvature}})
    prepared(AuditConfig.parse(base))
    estimator: JsonValue = {"layers": list(layers)}
    lower = merge(at_rank(base, 4), {"root": str(tmp_path / "other"), "estimator": estimator})
    wanted = audited(AuditConfig.parse(lower))
    known = set(Path(str(base["root"])).glob("digits/scoring/*"))
    path = written(tmp_path, merge(base, {"estimator": estimator}), {"ranks": [4]})
    (found,) = sweep(load_points(str(base["root"]), path))
    summary = wanted.summary("digits").json_object
    assert found["settings"] == {"rank": 4}
    assert found["verdict"] == summary["verdict"]
    for one, other in zip(numbers(found), numbers(summary), strict=True):
        assert one == pytest.approx(other, abs=HALF)
    scored, expected = scores(base["root"], known), scores(wanted.storage.url)
    assert list(scored) == list(expected)
    np.testing.assert_allclose(list(scored.values()), list(expected.values()), atol=HALF)
    assert np.std(list(expected.values())) > 50 * HALF


def test_points_of_different_ranks_do_not_take_each_others_curvature_and_a_resumed_sweep_computes_nothing(
    at_rank_8: Audit, base: Raw, tmp_path: Path
) -> None:
    root, path = at_rank_8.storage.url, written(tmp_path, base, {"ranks": [8, 4, 2]})
    assert len(list(Path(root).glob("digits/curvature/*"))) == 1
    found = sweep(load_points(root, path))
    assert len(list(Path(root).glob("digits/curvature/*"))) == 3
    assert len({str(row["explained"]) for row in found}) == 3
    assert found[0]["calibration"] == at_rank_8.summary("digits").calibration.json_object
    before = files_with_times(root)
    assert sweep(load_points(root, path)) == found
    assert files_with_times(root) == before


def test_a_rank_above_the_stored_one_and_kinds_of_sides_are_failures_of_their_points(
    at_rank_8: Audit, base: Raw, tmp_path: Path
) -> None:
    path = written(tmp_path, base, {"ranks": [16, 4], "curvatures": ["block_moment", "kfac"]})
    ended = mad("sweep", at_rank_8.storage.url, path, "-q")
    assert ended.code == 1
    assert "rank 4" in ended.out
    above = "estimator.projection.rank is 16, the stored rows have 8; `mad run` with this config computes them"
    assert above in ended.err
    assert "are not re-projected to rank 4; `mad run` with estimator.projection.rank: 4" in ended.err
    document = mad("sweep", at_rank_8.storage.url, path, "-q", "--output", "json").document
    points = document["points"]
    assert isinstance(points, list)
    assert [isinstance(row, dict) and "failure" in row for row in points].count(False) == 1


@pytest.mark.parametrize(
    ("ranks", "complaint"),
    [
        ([0], "grid.ranks.0: input should be greater than or equal to 1"),
        (["four"], "grid.ranks.0: input should be a valid integer"),
    ],
)
def test_a_rank_that_is_none_is_refused(base: Raw, tmp_path: Path, ranks: JsonValue, complaint: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(complaint)):
        load_points(str(base["root"]), written(tmp_path, base, {"ranks": ranks}))


def test_hashed_rows_have_no_lower_rank(base: Raw, tmp_path: Path) -> None:
    base = merge(base, {"estimator": {"projection": {"sketch": 32}}})
    audited(AuditConfig.parse(base))
    with pytest.raises(ConfigError, match=r"hashed to 32 numbers a layer .* cannot be re-projected to rank 4"):
        sweep(load_points(str(base["root"]), written(tmp_path, base, {"ranks": [4]})))


def test_losses_have_no_rank(base: Raw, tmp_path: Path) -> None:
    traced: Raw = {**base, "estimator": {"kind": "loss_trace", "sampling": "sampling.parquet"}}
    with pytest.raises(ConfigError, match=r"grid.ranks: rows of estimator.kind: loss_trace are losses"):
        load_points(str(base["root"]), written(tmp_path, traced, {"ranks": [4]}))


def test_a_rescore_at_a_lower_rank_names_the_sweep(at_rank_8: Audit, base: Raw) -> None:
    says = r"projection.rank is 4, the stored rows have 8; .*; `mad sweep` takes ranks below the stored one too"
    with pytest.raises(ConfigError, match=says):
        plan_rescore(AuditConfig.parse(at_rank(base, 4)))


def test_memory_is_estimated_for_the_lower_rows_and_the_stored_ones_that_are_read(at_rank_8: Audit, base: Raw) -> None:
    stored, lower = (plan_point(AuditConfig.parse(at_rank(base, rank))).models[0] for rank in (8, 4))
    assert lower.reprojection is not None
    assert lower.layout.k < lower.reprojection.stored.k == stored.layout.k
    assert stored.reprojection is None
    read = SCORING_BLOCK * 4 * stored.layout.k * 11
    assert lower.memory.curvature - read < stored.memory.curvature
    assert lower.memory.scoring - read < stored.memory.scoring
