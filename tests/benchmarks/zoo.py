"""Audits of a zoo's backdoored models, and their figures, for the benchmarks of estimators."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import JsonValue
from sklearn.metrics import roc_auc_score

from pipeline.config.audit_config import AuditConfig
from pipeline.config.sections import Raw
from pipeline.planning.from_models import plan_audit
from pipeline.results.audit import Audit
from pipeline.run import run_audit

MODELS = ("badnets", "blended", "wanet", "badnets-a2a")


LEVELS = (0.01, 0.05)


FEWEST_OF_CLASS = 100


Figures = dict[str, float]


@dataclass(frozen=True)
class Zoo:
    """`folder` holds zoo/ (weights, zoo_net.py) and data/cifar10/ (trusted, sampling, audited); `cache` the results."""

    folder: Path
    cache: Path

    def data(self, name: str) -> Path:
        """A file of samples."""
        return self.folder / f"data/cifar10/{name}.parquet"

    def made(self, name: str, table: pa.Table) -> Path:
        """A file of samples made for a benchmark, written where it is not there yet, so that its rows are reused."""
        path = self.cache / "files" / f"{name}.parquet"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(table, path)
        return path

    def audit(self, model: str, root: str, trusted: Path, audited: Path, **sections: JsonValue) -> Audit:
        """An audit of one model, with default settings unless given; what lies in this cache already is reused."""
        return run_audit(plan_audit(AuditConfig.parse(self.raw(model, root, trusted, [audited], **sections))))

    def raw(self, model: str, root: str, trusted: Path, audited: Sequence[Path], **sections: JsonValue) -> Raw:
        """The config of such an audit."""
        data: JsonValue = {
            "trusted": str(trusted),
            "audited": [str(path) for path in audited],
            "preprocess": {"mean": [0.4914, 0.4822, 0.4465], "std": [0.247, 0.243, 0.261], "size": 32},
        }
        weights = str(self.folder / f"zoo/{model}.safetensors")
        one: JsonValue = {
            "name": model,
            "architecture": str(self.folder / "zoo/zoo_net.py:preact_resnet"),
            "weights": weights,
        }
        return {"root": str(self.cache / root), "task": "classification", "models": [one], "data": data, **sections}


def figures(audit: Audit, model: str, truth_file: Path) -> Figures:
    """All figures of an audit, from its published table and the truth: of successful attacks and clean samples."""
    table = audit.scores(model).read_all()
    scores, p_values = table.column("score").to_numpy(), table.column("p_value").to_numpy()
    return judged(scores, p_values, table.column("prediction").to_numpy(), pq.read_table(truth_file))


def judged(
    scores: NDArray[np.float64], p_values: NDArray[np.float64], predictions: NDArray[np.int64], truth: pa.Table
) -> Figures:
    """Figures of scores and p-values (n,) of samples predicted (n,)."""
    anomalous = triggered(truth)
    succeeded = anomalous & (predictions == truth.column("target").fill_null(-1).to_numpy())
    kept = succeeded | ~anomalous
    found = {"auroc": float(roc_auc_score(succeeded[kept], scores[kept]))}
    for level in LEVELS:
        flagged = p_values <= level
        found[f"tpr@{level}"], found[f"fpr@{level}"] = (
            float(flagged[succeeded].mean()),
            float(flagged[~anomalous].mean()),
        )
    found["worst_class_fpr"] = max(
        _of_classes(p_values[~anomalous] <= LEVELS[-1], predictions[~anomalous]), default=float("nan")
    )
    return found


def triggered(table: pa.Table) -> NDArray[np.bool_]:
    """Which samples carry a trigger, (n,)."""
    return np.asarray(table.column("anomalous").to_numpy()).astype(bool)


def _of_classes(flagged: NDArray[np.bool_], predictions: NDArray[np.int64]) -> Iterator[float]:
    """The share of flagged samples of each predicted class that has enough."""
    for label in np.unique(predictions):
        if (predictions == label).sum() >= FEWEST_OF_CLASS:
            yield float(flagged[predictions == label].mean())
