"""The published table and the summary, to the letter, each number recomputed from what is stored."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest
import torch
from numpy.typing import NDArray
from pydantic import JsonValue
from safetensors.torch import load_file
from scipy.stats import false_discovery_control

from madcore import Projection, row_layout, select_layers
from pipeline.artifacts.curvature import read_reference_rows
from pipeline.artifacts.trusted import TrustedSamples, read_trusted
from pipeline.data.images import decode, scale_pixels
from pipeline.demo.network import digit_cnn
from pipeline.planning.from_models import plan_audit
from pipeline.results.audit import Audit, open_audit
from pipeline.root.logs import stage_logs
from pipeline.run import run_audit
from tests.conftest import ConfigMaker
from tests.reference import autograd_rows, block_moment

COLUMNS = {
    "sample_id": "string", "source": "string", "row": "int64", "prediction": "int32", "confidence": "float", "score": "float",
    "p_value": "double", "q_value": "double", "flagged": "bool", "leverage": "float", "gradient_norm": "float", "mechanism": "int32",
    "top_trusted": "list<item: struct<sample_id: string not null, influence: float not null>>", "layer_scores": "map<string, float>", "status": "string",
}  # fmt: skip


NULLABLE = {"confidence", "score", "p_value", "q_value", "leverage", "gradient_norm"}


SUMMARY_KEYS = ("run_id", "counts", "verdict", "calibration", "evaluation", "controls", "layers", "stages")


@dataclass(frozen=True)
class Audited:
    audit: Audit
    table: pa.Table
    trusted: TrustedSamples
    references: torch.Tensor

    def numbers(self, column: str) -> NDArray[np.float64]:
        return np.asarray(self.table.column(column).to_numpy(), np.float64)


def audited(config_maker: ConfigMaker, **sections: JsonValue) -> Audited:
    audit = run_audit(plan_audit(config_maker(**sections)))
    log = next(stage_logs(audit.storage, "digits", "curvature"))
    receipt = next(receipt for name, receipt in log.receipts().items() if name.startswith("references"))
    folder = log.attempt_folder(receipt)
    return Audited(
        audit,
        audit.scores("digits").read_all(),
        read_trusted(audit.storage, folder),
        read_reference_rows(audit.storage, folder),
    )


@pytest.fixture
def done(make_config: ConfigMaker) -> Audited:
    return audited(make_config)


def test_columns_types_and_rows_are_the_contracts(done: Audited, digits: Path) -> None:
    assert {field.name: str(field.type) for field in done.table.schema} == COLUMNS
    assert {field.name for field in done.table.schema if field.nullable} == NULLABLE
    source = pq.read_table(digits / "audited.parquet")
    assert done.table.column("sample_id").to_pylist() == source.column("id").to_pylist()
    assert done.table.column("row").to_pylist() == list(range(len(source)))
    assert set(done.table.column("source").to_pylist()) == {"audited.parquet"}
    assert set(done.table.column("mechanism").to_pylist()) == {-1}
    hive = pyarrow.dataset.dataset(f"{done.audit.storage.url}/digits/scores", partitioning="hive").to_table()
    assert hive.num_rows == len(source) and "run" in hive.column_names


def test_p_values_q_values_and_flags_follow_from_the_scores(done: Audited) -> None:
    scores, calibration = done.numbers("score"), done.trusted.calibration_scores
    expected = np.array(
        [(1 + sum(other >= score for other in calibration)) / (1 + len(calibration)) for score in scores]
    )
    np.testing.assert_array_equal(done.numbers("p_value"), expected)
    np.testing.assert_allclose(done.numbers("q_value"), false_discovery_control(expected), rtol=1e-12)
    flagged = done.table.column("flagged").to_numpy()
    np.testing.assert_array_equal(flagged, expected <= 0.01)
    threshold = done.audit.summary("digits").calibration.threshold
    assert threshold is not None
    np.testing.assert_array_equal(flagged, scores > threshold)


def test_an_fdr_target_flags_by_q_value(make_config: ConfigMaker) -> None:
    found = audited(make_config, calibration={"target": {"fdr": 0.05}})
    flagged = found.table.column("flagged").to_numpy()
    np.testing.assert_array_equal(flagged, found.numbers("q_value") <= 0.05)
    assert 0 < flagged.sum() < len(flagged)


def test_the_split_is_by_part_and_the_reference_part_is_correct(done: Audited, digits: Path) -> None:
    labels = dict(
        zip(
            *(pq.read_table(digits / "trusted.parquet").column(name).to_pylist() for name in ("id", "label")),
            strict=True,
        )
    )
    assert len(done.trusted.of("calibration")) == round(0.3 * 500)
    predictions = done.trusted.predictions.tolist()
    for index in done.trusted.of("reference"):
        assert labels[done.trusted.ids[index]] == predictions[index]
    for index in done.trusted.of("filtered"):
        assert labels[done.trusted.ids[index]] != predictions[index]
    assert len(done.trusted.of("reference")) + len(done.trusted.of("filtered")) == 350


def test_rows_are_autograds_and_scores_are_brute_force(make_config: ConfigMaker, digits: Path) -> None:
    """A rank above every side, float32 rows and identity curvature: rows are full gradients, and `mean_coupling` is their mean cosine."""
    rank, layers = 512, ["0", "2", "8"]
    found = audited(
        make_config,
        estimator={"projection": {"rank": rank}, "rows_dtype": "float32", "layers": layers},
        curvature={"kind": "identity"},
        score={"kind": "mean_coupling"},
    )
    model = digit_cnn().double().eval()
    model.load_state_dict(load_file(digits / "digits.safetensors"))
    source, config = pq.read_table(digits / "audited.parquet").slice(0, 20), make_config()
    pixels = np.stack([decode(image["bytes"], (8, 8), resize=True) for image in source.column("image").to_pylist()])
    inputs = torch.from_numpy(scale_pixels(pixels, config.models[0].data.preprocess)).double()
    expected = autograd_rows(model, select_layers(model, layers).covered, inputs, Projection(rank))
    stored = torch.from_numpy(found.audit.rows("digits", "audited")[:20].compute()).double()
    torch.testing.assert_close(stored, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))
    units = torch.nn.functional.normalize(found.references.double(), dim=1)
    brute = -(torch.nn.functional.normalize(expected, dim=1) @ units.T).mean(dim=1)
    np.testing.assert_allclose(found.numbers("score")[:20], brute.numpy(), atol=1e-5)


@pytest.mark.parametrize("rows_per_task", [128, 16], ids=["few parts", "a tree of parts"])
def test_a_transductive_curvature_is_of_the_reference_part_the_calibration_part_and_the_audited_samples(
    make_config: ConfigMaker, rows_per_task: int
) -> None:
    sections = {
        "estimator": {"projection": {"rank": 4}, "rows_dtype": "float32"},
        "run": {"rows_per_task": rows_per_task},
    }
    plain, found = (
        audited(make_config, **sections, root=f"{make_config().root}-{seen}", curvature={"transductive": seen})
        for seen in (False, True)
    )
    trusted, audited_rows = (
        found.audit.rows("digits", split).compute().astype(np.float64) for split in ("trusted", "audited")
    )
    places = sorted([*found.trusted.of("reference"), *found.trusted.of("calibration")])
    layout = row_layout(select_layers(digit_cnn()).covered, Projection(4))
    expected = []
    for place, block in zip(
        layout.slices, block_moment(np.concatenate([trusted[places], audited_rows]), layout.sizes), strict=True
    ):
        damped = block + np.eye(len(block)) * np.trace(block) / len(block)
        values, vectors = np.linalg.eigh(damped)
        expected.append(trusted[found.trusted.of("reference")][:, place] @ (vectors / np.sqrt(values)) @ vectors.T)
    np.testing.assert_allclose(found.references.numpy(), np.concatenate(expected, axis=1), rtol=1e-3, atol=1e-3)
    assert not np.allclose(found.references.numpy(), plain.references.numpy(), rtol=1e-2, atol=1e-2)


def test_a_transductive_curvature_changes_with_the_audited_samples(
    make_config: ConfigMaker, digits: Path, tmp_path: Path
) -> None:
    """And a plain one does not: its scores are those of any other audit."""
    pq.write_table(pq.read_table(digits / "audited.parquet").slice(0, 100), tmp_path / "fewer.parquet")
    for transductive in (False, True):
        whole, fewer = (
            audited(make_config, curvature={"transductive": transductive}, data={"audited": path})
            for path in ("audited.parquet", str(tmp_path / "fewer.parquet"))
        )
        assert np.allclose(whole.numbers("score")[:100], fewer.numbers("score"), atol=1e-6) is not transductive


def test_a_file_that_changes_sides_is_another_curvature(make_config: ConfigMaker, digits: Path, tmp_path: Path) -> None:
    """Without labels, files of the trusted and of the audited set are alike."""
    source = pq.read_table(digits / "trusted.parquet").drop_columns(["label"])
    for name, start, rows in (("a", 0, 200), ("b", 200, 150), ("c", 350, 150)):
        pq.write_table(source.slice(start, rows), tmp_path / f"{name}.parquet")
    keys = set()
    for trusted, others in ((["a", "b"], ["c"]), (["a"], ["b", "c"])):
        data = {
            split: [str(tmp_path / f"{name}.parquet") for name in names]
            for split, names in (("trusted", trusted), ("audited", others))
        }
        audited(make_config, curvature={"transductive": True}, calibration={"target": {"fpr": 0.1}}, data=data)
        keys |= {path.name for path in (tmp_path / "root/digits/curvature").iterdir()}
        assert len(keys) == (1 if len(trusted) == 2 else 2)


def test_top_trusted_are_the_ten_largest_influences_of_the_reference_part(done: Audited) -> None:
    entries = done.table.column("top_trusted").to_pylist()
    references = set(done.trusted.reference_ids)
    for row in entries:
        influences = [entry["influence"] for entry in row]
        assert len(row) == 10 and influences == sorted(influences, reverse=True)
        assert {entry["sample_id"] for entry in row} <= references
    covered = done.audit.summary("digits").layers.covered
    assert tuple(name for name, _ in done.table.column("layer_scores").to_pylist()[0]) == covered


def test_the_summary_has_what_the_contract_names_and_is_the_runs_own(done: Audited) -> None:
    summary, outcome = done.audit.summary("digits").json_object, done.audit.outcome
    assert outcome is not None
    assert set(SUMMARY_KEYS) <= set(summary)
    root = Path(done.audit.storage.url)
    assert json.loads((root / f"runs/{outcome.run_id}/digits.json").read_text()) == summary
    assert json.loads((root / "digits/summary.json").read_text()) == summary
    counts, evaluation = summary["counts"], summary["evaluation"]
    assert isinstance(counts, dict) and isinstance(evaluation, dict)
    assert counts["audited"] == done.table.num_rows
    assert counts["flagged"] == int(done.table.column("flagged").to_numpy().sum())
    for kept in ("all", "paper_filter"):
        assert set(evaluation[kept]) >= {"auroc", "average_precision", "at_calibrated", "at_best"}
    assert (root / "report/index.html").is_file() and (root / "report/digits.html").is_file()
    assert open_audit(str(root)).summary("digits").json_object == summary


def test_rows_are_one_dask_array_over_the_committed_parts(done: Audited) -> None:
    rows = done.audit.rows("digits", "audited")
    assert rows.shape == (done.table.num_rows, plan_width(done))
    assert len(rows.chunks[0]) == 4
    norms = np.linalg.norm(rows.compute(), axis=1)
    np.testing.assert_allclose(norms, done.numbers("gradient_norm"), rtol=1e-3)


def plan_width(done: Audited) -> int:
    array = done.audit.rows("digits", "trusted")
    return int(array.shape[1])


@pytest.mark.parametrize("kind", ["prediction_coupling", "mean_coupling", "top_coupling"])
def test_a_calibration_sample_that_is_audited_ties_with_itself(make_config: ConfigMaker, kind: str) -> None:
    """To the last bit, in whatever blocks either was scored: ties count against the sample, so p is at least rank / (M + 1)."""
    found = audited(make_config, data={"audited": "trusted.parquet"}, score={"kind": kind})
    scores, places = found.numbers("score"), found.trusted.of("calibration")
    np.testing.assert_array_equal(scores[places], found.trusted.calibration_scores)


def test_a_curvature_that_cannot_be_inverted_fails_the_model_with_the_numbers(make_config: ConfigMaker) -> None:
    """A layer keeps more numbers (432) than there are reference samples, so that only the damping makes its curvature regular."""
    sections = {
        "estimator": {"projection": {"rank": 32}},
        "curvature": {"damping": {"kind": "absolute", "value": 1e-90}},
    }
    outcome = run_audit(plan_audit(make_config(**sections))).outcome
    assert outcome is not None and not outcome.summaries
    assert (
        "cannot be inverted in float32" in outcome.failures["digits"]
        and "raise curvature.damping" in outcome.failures["digits"]
    )
