"""Audits whose curvature is fitted on rows of their own: those of the training loss, and Kronecker factors."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from numpy.typing import NDArray
from pydantic import JsonValue
from safetensors.torch import load_file
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
from pipeline.artifacts.curvature import read_reference_rows, read_whitening
from pipeline.artifacts.trusted import read_trusted
from pipeline.config.curvature import CurvatureSection
from pipeline.data.images import decode, scale_pixels
from pipeline.demo.network import digit_cnn
from pipeline.errors import ConfigError
from pipeline.operations.inspect import ModelInspection, inspect
from pipeline.operations.verify import verify
from pipeline.planning.from_models import plan_audit
from pipeline.planning.memory import PROCESS_BYTES
from pipeline.results.audit import Audit
from pipeline.root.logs import stage_logs
from pipeline.run import run_audit
from tests.conftest import ConfigMaker
from tests.reference import block_moment, projected

RANK = 3


EXACT: dict[str, JsonValue] = {"projection": {"rank": RANK}, "rows_dtype": "float32"}


KINDS = pytest.mark.parametrize("kind", ["ggn", "fisher", "kfac", "ekfac"])


def network(digits: Path) -> nn.Module:
    model = digit_cnn().double().eval()
    model.load_state_dict(load_file(digits / "digits.safetensors"))
    return model


def inputs(config_maker: ConfigMaker, digits: Path, split: str) -> tuple[list[str], Tensor]:
    """Ids and inputs of all samples of a file."""
    source, config = pq.read_table(digits / f"{split}.parquet"), config_maker()
    pixels = np.stack([decode(image["bytes"], (8, 8), resize=True) for image in source.column("image").to_pylist()])
    return source.column("id").to_pylist(), torch.from_numpy(
        scale_pixels(pixels, config.models[0].data.preprocess)
    ).double()


def gauss_newton(model: nn.Module, samples: Tensor) -> NDArray[np.float64]:
    """Rows (n * C, k) whose second moment is C times smaller than the sum over classes of p_c g_c g_c^T, g_c by autograd, class by class."""
    layers, rows = select_layers(model).covered, []
    parameters = {layer.name: model.get_parameter(layer.name).detach() for layer in layers}
    for sample in samples.split(1):
        jacobians = jacrev(lambda own, one=sample: functional_call(model, own, (one,)).log_softmax(dim=1)[0])(
            parameters
        )
        with torch.no_grad():
            weights = model(sample).softmax(dim=1)[0].sqrt()
        for label, weight in enumerate(weights):
            grads = [jacobians[layer.name][label].reshape(layer.shape) for layer in layers]
            rows.append(
                weight
                * torch.cat(
                    [projected(Projection(RANK), layer.name, grad) for layer, grad in zip(layers, grads, strict=True)]
                )
            )
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


def run(config_maker: ConfigMaker, **sections: JsonValue) -> Audit:
    return run_audit(plan_audit(config_maker(**sections)))


@pytest.mark.parametrize(
    ("curvature", "rows_per_task"),
    [
        ({"kind": "ggn", "transductive": False}, 128),
        ({"kind": "ggn", "transductive": True}, 40),
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
    make_config: ConfigMaker, digits: Path, curvature: dict[str, JsonValue], rows_per_task: int
) -> None:
    """Of the reference part, or transductively of all but the filtered; in few tasks, and in so many that moments are a tree."""
    kind, transductive, seed = curvature["kind"], curvature["transductive"], int(str(curvature.get("seed", 0)))
    audit = run(
        make_config, estimator=EXACT, curvature=curvature, run={"rows_per_task": rows_per_task, "batch_size": 30}
    )
    log = next(stage_logs(audit.storage, "digits", "curvature"))
    folder = log.attempt_folder(
        next(receipt for name, receipt in log.receipts().items() if name.startswith("references"))
    )
    trusted, references = read_trusted(audit.storage, folder), read_reference_rows(audit.storage, folder).numpy()
    model, (ids, samples) = network(digits), inputs(make_config, digits, "trusted")
    places = sorted([*trusted.of("reference"), *(trusted.of("calibration") if transductive else ())])
    ids, samples = [ids[place] for place in places], samples[places]
    if transductive:
        more_ids, more = inputs(make_config, digits, "audited")
        ids, samples = ids + more_ids, torch.cat([samples, more])
    layout = row_layout(select_layers(model).covered, Projection(RANK))
    own = audit.rows("digits", "trusted").compute().astype(np.float64)[trusted.of("reference")]
    if kind in ("ggn", "fisher"):
        blocks = block_moment(
            gauss_newton(model, samples) if kind == "ggn" else fisher(model, ids, samples, seed), layout.sizes
        )
    else:
        blocks = factored(model, samples, str(kind))
    np.testing.assert_allclose(
        references, expected_references(blocks, own, layout), rtol=2e-3, atol=2e-3 * np.abs(references).max()
    )


def costs(audit: Audit) -> int:
    """What the gradients stage of the latest run did."""
    return audit.summary("digits").stages["gradients"].tasks_run


def scores(audit: Audit) -> NDArray[np.float64]:
    return np.asarray(audit.scores("digits").read_all().column("score").to_numpy(), np.float64)


@KINDS
def test_detection_and_reuse(make_config: ConfigMaker, kind: str) -> None:
    """A changed damping computes no rows again, and another kind of curvature none of the samples' own."""
    tasks = len(plan_audit(make_config(curvature={"kind": kind})).models[0].row_tasks)
    first = run(make_config, curvature={"kind": kind})
    evaluation, before = first.summary("digits").evaluation, scores(first)
    assert costs(first) == tasks > 8
    assert evaluation is not None and evaluation.all is not None
    assert evaluation.all.auroc is not None and evaluation.all.auroc > 0.95
    damped = run(make_config, curvature={"kind": kind, "damping": {"factor": 0.1}})
    assert costs(damped) == 0 and not np.allclose(scores(damped), before)
    own = run(make_config)
    assert costs(own) == 0 and not np.allclose(scores(own), before)
    assert not verify(own.storage).problems
    found = inspect(f"{own.storage.url}/digits")
    assert isinstance(found, ModelInspection) and found.stages["gradients"].tasks == tasks


@KINDS
def test_batches_and_tasks_change_no_score(make_config: ConfigMaker, kind: str) -> None:
    one, other = (
        scores(
            run(
                make_config,
                root=f"{make_config().root}-{rows}",
                curvature={"kind": kind},
                run={"rows_per_task": rows, "batch_size": batch},
            )
        )
        for rows, batch in ((128, 64), (50, 7))
    )
    np.testing.assert_allclose(one, other, atol=1e-5)


@KINDS
def test_an_unreadable_trusted_sample_takes_no_part_and_is_tried_again(
    make_config: ConfigMaker, digits: Path, tmp_path: Path, kind: str
) -> None:
    table = pq.read_table(digits / "trusted.parquet")
    images = table.column("image").to_pylist()
    images[3] = {"bytes": b"no picture", "path": None}
    broken = pa.array(images, table.schema.field("image").type)
    pq.write_table(table.set_column(table.schema.get_field_index("image"), "image", broken), tmp_path / "some.parquet")
    data: JsonValue = {"trusted": str(tmp_path / "some.parquet")}
    audit = run(make_config, curvature={"kind": kind}, data=data)
    run_id, before = audit.summary("digits").run_id, scores(audit)
    assert np.isfinite(before).all()
    again = run(make_config, curvature={"kind": kind}, data=data)
    assert costs(again) == 2  # the task with the sample's own row, and that with those that the curvature is fitted on
    assert again.summary("digits").same_as == run_id


def test_both_curvatures_of_kronecker_factors_share_their_side_numbers(make_config: ConfigMaker) -> None:
    first = run(make_config, curvature={"kind": "kfac"})
    before, corrected = scores(first), run(make_config, curvature={"kind": "ekfac"})
    assert costs(corrected) == 0 and not np.allclose(scores(corrected), before)


def test_a_trusted_set_smaller_than_a_layers_row_is_audited_without_its_matrix(make_config: ConfigMaker) -> None:
    """Rank 64 keeps up to 2,304 numbers a layer here, of fewer reference samples: the plan counts rows instead of matrices, and the map at rest is thin."""
    estimator: JsonValue = {"projection": {"rank": 64}, "parameters": "all"}
    plan = plan_audit(make_config(estimator=estimator)).models[0]
    dense = 4 * 8 * sum(size * size for size in plan.layout.sizes)
    assert (
        max(plan.layout.sizes) > sum(source.rows for source in plan.trusted)
        and plan.memory.curvature - PROCESS_BYTES < dense
    )
    audit = run(make_config, estimator=estimator)
    log = next(stage_logs(audit.storage, "digits", "curvature"))
    receipts = log.receipts()
    whitening = read_whitening(audit.storage, log.attempt_folder(receipts["factor"]), plan.layout)
    forms = [type(own) for own in whitening.maps or ()]
    assert SpectralMap in forms and Matrix in forms
    rows = torch.from_numpy(audit.rows("digits", "trusted").compute())
    references = next(receipt for name, receipt in receipts.items() if name.startswith("references"))
    trusted = read_trusted(audit.storage, log.attempt_folder(references))
    own = rows[trusted.of("reference")].double()
    blocks = block_moment(own.numpy(), plan.layout.sizes)
    found = read_reference_rows(audit.storage, log.attempt_folder(references)).numpy()
    np.testing.assert_allclose(
        found, expected_references(blocks, own.numpy(), plan.layout), rtol=2e-3, atol=2e-3 * np.abs(found).max()
    )


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


def test_on_ray_scores_are_those_of_one_process(make_config: ConfigMaker, ray_cluster: None) -> None:
    """Of the curvature with the most steps: side numbers, a tree of their moments, eigenvectors, and a tree along them."""
    curvature: JsonValue = {"kind": "ekfac", "transductive": True}
    here, there = (
        run_audit(
            plan_audit(
                make_config(root=f"{make_config().root}-{name}", curvature=curvature, run={"rows_per_task": 24})
            ),
            executor=name,
        )
        for name in ("serial", "ray")
    )
    np.testing.assert_allclose(scores(there), scores(here), atol=1e-5)
