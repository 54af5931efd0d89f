"""`loss_trace` at the paper's settings against `gradient`: what each detects, and what each costs.

500 trusted and 1,000 audited samples (800 clean, 200 triggered), because a chain of 2,000 draws makes it long. Traces are scored by the
correlation with the sample's own class, with the class that fits best (the paper's), and by concordance with that; then once more from
draws thinned to their autocorrelation time, from the stored rows. `forwards` are forward passes of the model per audited sample, a backward
pass counted as two: 1 + the kept draws for traces, 3 for gradients, whose backward pass has no weight gradients and costs less. What a chain
itself costs (2,000 times 256 samples forward and backward, and 256 of the probe) is shared by all samples and not in it. `seconds` are
those of the gradients stage, chain included, in the run that computed it.
"""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from pydantic import JsonValue
from torch import Tensor

from madcore import References, RowLayout, p_values, score
from madcore.sampling.traces import centred
from pipeline.artifacts.trusted import TrustedSamples, read_trusted
from pipeline.results.audit import Audit
from pipeline.root.logs import stage_logs
from tests.benchmarks.zoo import Figures, Zoo, figures, judged, triggered

TRUSTED, CLEAN, TRIGGERED = 500, 800, 200


SCORES: dict[str, JsonValue] = {
    "prediction": {"kind": "prediction_coupling"},
    "class": {"kind": "class_coupling"},
    "concordance": {"kind": "concordance"},
}


GRADIENTS: dict[str, JsonValue] = {"block_moment": {"kind": "block_moment"}, "identity": {"kind": "identity"}}


def figures_of(zoo: Zoo, model: str) -> Iterator[tuple[str, Figures]]:
    """Figures of one model, by estimator and score."""
    trusted = zoo.made("trusted-500", pq.read_table(zoo.data("trusted")).slice(0, TRUSTED))
    whole = pq.read_table(zoo.data(f"audited-{model}"))
    marks = triggered(whole)
    places = np.sort(np.concatenate([np.flatnonzero(~marks)[:CLEAN], np.flatnonzero(marks)[:TRIGGERED]]))
    audited = zoo.made(f"audited-1000-{model}", whole.take(pa.array(places)))
    for name, curvature in GRADIENTS.items():
        audit = zoo.audit(
            model, f"gradient-{name}", trusted, audited, curvature=curvature, calibration={"target": {"fpr": 0.05}}
        )
        yield (
            f"gradient {name}, 500 trusted",
            figures(audit, model, audited) | {"forwards": 3.0, "seconds": seconds(audit, model)},
        )
    estimator: JsonValue = {"kind": "loss_trace", "sampling": str(zoo.data("sampling"))}
    cost: Figures = {}
    for name, kind in SCORES.items():
        audit = zoo.audit(
            model,
            "loss-trace",
            trusted,
            audited,
            estimator=estimator,
            score=kind,
            calibration={"target": {"fpr": 0.05}},
        )
        cost = cost or {"forwards": 1.0 + audit.rows(model).shape[1], "seconds": seconds(audit, model)}
        yield f"loss_trace {name}", figures(audit, model, audited) | cost
    every = round(autocorrelation_time(audit, model))
    yield (
        f"loss_trace prediction, thinned by {every}",
        thinned(audit, model, audited_truth=pq.read_table(audited), every=every),
    )


def seconds(audit: Audit, model: str) -> float:
    """Of the gradients stage, in the run that computed it; 0 where all was reused."""
    return audit.summary(model).stages["gradients"].seconds


def autocorrelation_time(audit: Audit, model: str) -> float:
    """Of the latest run's chains, in kept draws."""
    sampling = audit.summary(model).sampling
    assert sampling is not None
    return sampling.autocorrelation_time


def thinned(audit: Audit, model: str, audited_truth: pa.Table, every: int) -> Figures:
    """Figures of every so many-th draw, scored by the very functions of the pipeline."""
    table, trusted = audit.scores(model).read_all(), _trusted(audit, model)
    rows, audited = (
        torch.from_numpy(audit.rows(model, split).compute()[:, ::every].copy()) for split in ("trusted", "audited")
    )
    layout = RowLayout(("chain 0",), (rows.shape[1],))
    references = References.of(
        layout, "concatenated", centred(rows[trusted.of("reference")], layout), trusted.reference_predictions, 10
    )

    def scored(some: Tensor, predictions: Tensor) -> Tensor:
        return score(references, "prediction_coupling", centred(some, layout), predictions).score.double()

    calibration = trusted.of("calibration")
    of_calibration = scored(rows[calibration], trusted.predictions[calibration]).numpy()
    predictions = table.column("prediction").to_numpy()
    scores = scored(audited, torch.from_numpy(np.array(predictions, np.int64))).numpy()
    return judged(scores, p_values(scores, of_calibration), predictions, audited_truth) | {"forwards": 1.0 + layout.k}


def _trusted(audit: Audit, model: str) -> TrustedSamples:
    log = next(stage_logs(audit.storage, model, "curvature"))
    receipt = next(receipt for name, receipt in log.receipts().items() if name.startswith("references"))
    return read_trusted(audit.storage, log.attempt_folder(receipt))
