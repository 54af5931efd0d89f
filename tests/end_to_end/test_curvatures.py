"""Audits whose curvature is fitted on rows of their own: those of the training loss, and Kronecker factors."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from numpy.typing import NDArray
from pydantic import JsonValue
from torch import Tensor, nn
from torch.func import functional_call, jacrev

from madcore import (
    EigenvalueMoment,
    KroneckerMoment,
    Measured,
    Projection,
    RowExtractor,
    RowLayout,
    SampledLabels,
    label_uniforms,
    margin,
    per_sample_rows,
    row_layout,
    select_layers,
)
from madcore.curvature.whitening import Matrix, SpectralMap
from pipeline.artifacts.curvature import read_whitening
from pipeline.config.audit_config import AuditConfig
from pipeline.config.curvature import CurvatureSection
from pipeline.errors import ConfigError
from pipeline.operations.inspect import ModelInspection, inspect
from pipeline.operations.verify import verify
from pipeline.planning.from_models import plan_audit
from pipeline.planning.memory import PROCESS_BYTES
from pipeline.root.logs import stage_logs
from pipeline.run import run_audit
from tests.audits import audited, gradient_tasks, images, network, references, scores, with_column
from tests.conftest import ConfigMaker
from tests.reference import block_moment, projected

RANK = 3


EXACT: dict[str, JsonValue] = {"projection": {"rank": RANK}, "rows_dtype": "float32"}


Sections = dict[str, dict[str, JsonValue]]


FITTED = ("ggn", "fisher", "kfac", "ekfac")
KINDS = pytest.mark.parametrize("kind", FITTED)
SAMPLED_AND_FACTORED = pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=pytest.mark.faults if kind in ("ggn", "kfac") else ()) for kind in FITTED]
)


def first_digits(digits: Path, folder: Path, trusted: int, audited: int) -> Sections:
    """Sections of a config: the first digits of each file, and a target that suits so few."""
    for name, rows in (("trusted", trusted), ("audited", audited)):
        pq.write_table(pq.read_table(digits / f"{name}.parquet").slice(0, rows), folder / f"{name}.parquet")
    data: JsonValue = {name: str(folder / f"{name}.parquet") for name in ("trusted", "audited")}
    return {"data": data, "calibration": {"target": {"fpr": 0.1}}}


@pytest.fixture
def few(digits: Path, tmp_path: Path) -> Sections:
    """Few enough for the slow twins of curvatures."""
    return first_digits(digits, tmp_path, trusted=120, audited=60)


@pytest.fixture
def some(digits: Path, tmp_path: Path) -> Sections:
    """Enough to detect the backdoor."""
    return first_digits(digits, tmp_path, trusted=300, audited=150)


def inputs(config: AuditConfig, split: str) -> tuple[list[str], Tensor]:
    """Ids and inputs of all samples of a file."""
    data = config.models[0].data
    path = Path(data.trusted[0] if split == "trusted" else data.audited[0])
    return pq.read_table(path).column("id").to_pylist(), images(path, data.preprocess).double()


def gauss_newton(model: nn.Module, samples: Tensor) -> NDArray[np.float64]:
    """Rows (n * C, k) whose second moment is C times smaller than the sum over classes of p_c g_c g_c^T.

    Each g_c is by autograd, class by class.
    """
    layers, rows = select_layers(model).covered, []
    parameters = {layer.name: model.get_parameter(layer.name).detach() for layer in layers}

    def log_probabilities(own: dict[str, Tensor], sample: Tensor) -> Tensor:
        return functional_call(model, own, (sample,)).log_softmax(dim=1)[0]

    for sample in samples.split(1):
        jacobians = jacrev(log_probabilities)(parameters, sample)
        with torch.no_grad():
            weights = model(sample).softmax(dim=1)[0].sqrt()
        for label, weight in enumerate(weights):
            grads = {layer.name: jacobians[layer.name][label].reshape(layer.shape) for layer in layers}
            row = [projected(Projection(RANK), name, grad) for name, grad in grads.items()]
            rows.append(weight * torch.cat(row))
    return torch.stack(rows).detach().numpy() * np.sqrt(weights.numel())


def fisher(model: nn.Module, ids: list[str], samples: Tensor, seed: int) -> NDArray[np.float64]:
    labels = SampledLabels(label_uniforms(seed, ids).squeeze(1))
    return per_sample_rows(model, samples, projection=Projection(RANK), measurement=labels).numpy()


def factored(model: nn.Module, samples: Tensor, kind: str) -> list[NDArray[np.float64]]:
    """The blocks of Kronecker factors, dense, in one pass over all samples in float64."""
    extractor, batch = RowExtractor(model, select_layers(model).covered, Projection(RANK)), Measured(samples, margin)
    spectra = KroneckerMoment.zero(extractor.side_layout).update(extractor.side_numbers(batch)).finalize()
    if kind == "ekfac":
        spectra = EigenvalueMoment.zero(extractor.layout, spectra).update(extractor(batch).rows).finalize()
    return [spectrum.dense.numpy() for spectrum in spectra]


def expected_references(
    blocks: Sequence[NDArray[np.float64]], own: NDArray[np.float64], layout: RowLayout
) -> NDArray[np.float64]:
    """The reference part's own rows, whitened by these blocks."""
    whitened = []
    for place, block in zip(layout.slices, blocks, strict=True):
        values, vectors = np.linalg.eigh(block + np.eye(len(block)) * np.trace(block) / len(block))
        whitened.append(own[:, place] @ (vectors / np.sqrt(values)) @ vectors.T)
    return np.concatenate(whitened, axis=1)


@pytest.mark.parametrize(
    ("curvature", "rows_per_task"),
    [
        ({"kind": "ggn", "transductive": False}, 128),
        ({"kind": "ggn", "transductive": True}, 16),
        ({"kind": "fisher", "transductive": False, "seed": 7}, 128),
        ({"kind": "fisher", "transductive": True}, 16),
        ({"kind": "kfac", "transductive": False}, 128),
        ({"kind": "kfac", "transductive": True}, 16),
        ({"kind": "ekfac", "transductive": False}, 128),
        ({"kind": "ekfac", "transductive": True}, 16),
    ],
    ids=lambda value: " ".join(map(str, value.values())) if isinstance(value, dict) else str(value),
)
def test_the_curvature_is_the_dense_one(
    make_config: ConfigMaker, few: Sections, digits: Path, curvature: dict[str, JsonValue], rows_per_task: int
) -> None:
    """Of the reference part, or transductively of all but the filtered; in few tasks, and in a tree of many."""
    kind, transductive, seed = curvature["kind"], curvature["transductive"], int(str(curvature.get("seed", 0)))
    run: JsonValue = {"rows_per_task": rows_per_task, "batch_size": 30}
    config = make_config(**few, estimator=EXACT, curvature=curvature, run=run)
    audit = audited(config)
    trusted, whitened = references(audit)
    found = whitened.numpy()
    model, (ids, samples) = network(digits).double(), inputs(config, "trusted")
    places = sorted([*trusted.of("reference"), *(trusted.of("calibration") if transductive else ())])
    ids, samples = [ids[place] for place in places], samples[places]
    if transductive:
        more_ids, more = inputs(config, "audited")
        ids, samples = ids + more_ids, torch.cat([samples, more])
    layout = row_layout(select_layers(model).covered, Projection(RANK))
    own = audit.rows("digits", "trusted").compute().astype(np.float64)[trusted.of("reference")]
    if kind in ("ggn", "fisher"):
        rows = gauss_newton(model, samples) if kind == "ggn" else fisher(model, ids, samples, seed)
        blocks = block_moment(rows, layout.sizes)
    else:
        blocks = factored(model, samples, str(kind))
    expected = expected_references(blocks, own, layout)
    np.testing.assert_allclose(found, expected, rtol=2e-3, atol=2e-3 * np.abs(found).max())


@SAMPLED_AND_FACTORED
def test_detection_and_reuse(make_config: ConfigMaker, some: Sections, kind: str) -> None:
    """A changed damping computes no rows again, and another kind of curvature none of the samples' own."""
    plan = plan_audit(make_config(**some, curvature={"kind": kind}))
    tasks, first = len(plan.models[0].row_tasks), run_audit(plan)
    evaluation, before = first.summary("digits").evaluation, scores(first)
    assert gradient_tasks(first) == tasks > 4
    assert evaluation is not None and evaluation.all is not None
    assert evaluation.all.auroc is not None and evaluation.all.auroc > 0.95
    damped = audited(make_config(**some, curvature={"kind": kind, "damping": {"factor": 0.1}}))
    assert gradient_tasks(damped) == 0 and not np.allclose(scores(damped), before)
    own = audited(make_config(**some))
    assert gradient_tasks(own) == 0 and not np.allclose(scores(own), before)
    assert not verify(own.storage).problems
    found = inspect(f"{own.storage.url}/digits")
    assert isinstance(found, ModelInspection) and found.stages["gradients"].tasks == tasks


@SAMPLED_AND_FACTORED
def test_batches_and_tasks_change_no_score(make_config: ConfigMaker, few: Sections, kind: str) -> None:
    def found(rows: int, batch: int) -> NDArray[np.float64]:
        run: JsonValue = {"rows_per_task": rows, "batch_size": batch}
        root = f"{make_config().root}-{rows}"
        return scores(audited(make_config(**few, root=root, curvature={"kind": kind}, run=run)))

    np.testing.assert_allclose(found(128, 64), found(50, 7), atol=1e-5)


@KINDS
def test_an_unreadable_trusted_sample_takes_no_part_and_is_tried_again(
    make_config: ConfigMaker, few: Sections, tmp_path: Path, kind: str
) -> None:
    table = pq.read_table(tmp_path / "trusted.parquet")
    pictures = table.column("image").to_pylist()
    pictures[3] = {"bytes": b"no picture", "path": None}
    pq.write_table(with_column(table, "image", pictures), tmp_path / "some.parquet")
    data: JsonValue = {**few["data"], "trusted": str(tmp_path / "some.parquet")}
    config = make_config(curvature={"kind": kind}, data=data, calibration=few["calibration"])
    audit = audited(config)
    run_id, before = audit.summary("digits").run_id, scores(audit)
    assert np.isfinite(before).all()
    again = audited(config)
    assert gradient_tasks(again) == 2  # that of the sample's own row, and that of its rows for the curvature
    assert again.summary("digits").same_as == run_id


def test_both_curvatures_of_kronecker_factors_share_their_side_numbers(make_config: ConfigMaker, few: Sections) -> None:
    before = scores(audited(make_config(**few, curvature={"kind": "kfac"})))
    corrected = audited(make_config(**few, curvature={"kind": "ekfac"}))
    assert gradient_tasks(corrected) == 0 and not np.allclose(scores(corrected), before)


def test_a_trusted_set_smaller_than_a_layers_row_is_audited_without_its_matrix(
    make_config: ConfigMaker, few: Sections
) -> None:
    """Rank 52 keeps 1,664 numbers of a layer, of fewer reference samples.

    So the plan counts rows instead of matrices, and the map at rest is thin.
    """
    estimator: JsonValue = {"projection": {"rank": 52}, "parameters": "all"}
    plan = plan_audit(make_config(**few, estimator=estimator)).models[0]
    dense = 4 * 8 * sum(size * size for size in plan.layout.sizes)
    assert max(plan.layout.sizes) == 1664 > sum(source.rows for source in plan.trusted)
    assert plan.memory.curvature - PROCESS_BYTES < dense
    audit = audited(make_config(**few, estimator=estimator))
    log = next(stage_logs(audit.storage, "digits", "curvature"))
    whitening = read_whitening(audit.storage, log.attempt_folder(log.receipts()["factor"]), plan.layout)
    forms = [type(own) for own in whitening.maps or ()]
    assert SpectralMap in forms and Matrix in forms
    rows = torch.from_numpy(audit.rows("digits", "trusted").compute())
    trusted, whitened = references(audit)
    own, found = rows[trusted.of("reference")].double().numpy(), whitened.numpy()
    expected = expected_references(block_moment(own, plan.layout.sizes), own, plan.layout)
    np.testing.assert_allclose(found, expected, rtol=2e-3, atol=2e-3 * np.abs(found).max())


def test_a_gauss_newton_matrix_of_texts_is_refused_with_what_is_valid(make_config: ConfigMaker) -> None:
    with pytest.raises(
        ConfigError,
        match=r"ggn makes no sense for the task causal_lm; valid: identity, block_moment, fisher, kfac, ekfac",
    ):
        make_config(task="causal_lm", models=[{"name": "chat", "huggingface": "chat"}], curvature={"kind": "ggn"})


def test_a_seed_belongs_to_the_fisher() -> None:
    with pytest.raises(ValueError, match="ggn samples none"):
        CurvatureSection(kind="ggn", seed=3)
    assert "seed" not in CurvatureSection(kind="fisher").model_dump(mode="json")
    assert CurvatureSection(kind="fisher", seed=3).model_dump(mode="json")["seed"] == 3


@pytest.mark.faults
def test_on_ray_scores_are_those_of_one_process(make_config: ConfigMaker, ray_cluster: None) -> None:
    """Of the curvature with the most steps: side numbers, a tree of their moments, eigenvectors, a tree along them."""

    def found(executor: str) -> NDArray[np.float64]:
        root, curvature = f"{make_config().root}-{executor}", {"kind": "ekfac", "transductive": True}
        plan = plan_audit(make_config(root=root, curvature=curvature, run={"rows_per_task": 24}))
        return scores(run_audit(plan, executor=executor))

    np.testing.assert_allclose(found("ray"), found("serial"), atol=1e-5)
