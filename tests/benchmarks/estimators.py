"""What detects which backdoor: `make bench-estimators ZOO=FOLDER [CACHE=FOLDER]`.

Every model of the zoo is audited with every setting below, defaults otherwise, all trusted and audited samples, over the very pipeline
that users run. A figure is of successful attacks (prediction equals the target) against clean samples: AUROC; TPR and realised FPR at
the calibrated 1 % and 5 %; and the highest FPR of a predicted class at 5 %, of classes with at least 100 clean samples. Not included are
`loss_trace`, which this version does not have.

Results lie in CACHE, a root per setting that shares nothing with others, so that a benchmark that was stopped goes on where it was. The
last line is one JSON object, MODEL/SETTING/FIGURE.

    python -m tests.benchmarks.estimators ZOO [--cache FOLDER] [--models NAME ...] [--settings NAME ...]
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import JsonValue
from sklearn.metrics import roc_auc_score

from pipeline.audit import Audit
from pipeline.config import AuditConfig, Raw
from pipeline.plan import plan_audit
from pipeline.run import run_audit

MODELS = ("badnets", "blended", "wanet", "badnets-a2a")
LEVELS = (0.01, 0.05)
FEWEST_OF_CLASS = 100
SETTINGS: dict[str, Raw] = {
    "block_moment": {},
    "identity": {"curvature": {"kind": "identity"}},
    "ggn": {"curvature": {"kind": "ggn"}},
    "fisher": {"curvature": {"kind": "fisher"}},
    "kfac": {"curvature": {"kind": "kfac"}},
    "ekfac": {"curvature": {"kind": "ekfac"}},
    "transductive": {"curvature": {"transductive": True}},
    "debiased": {"score": {"debiased": True}},
    "identity debiased": {"curvature": {"kind": "identity"}, "score": {"debiased": True}},
    "class_coupling": {"score": {"kind": "class_coupling"}},
    "damping 0.1": {"curvature": {"damping": {"factor": 0.1}}},
    "rank 4": {"estimator": {"projection": {"rank": 4}}},
    "rank 8": {"estimator": {"projection": {"rank": 8}}},
    "rank 32": {"estimator": {"projection": {"rank": 32}}},
    "rank 64": {"estimator": {"projection": {"rank": 64}}},
    "gaussian": {"estimator": {"projection": {"kind": "gaussian"}}},
    "all": {"estimator": {"parameters": "all"}},
}


def config(zoo: Path, name: str, setting: str, cache: Path) -> Raw:
    """One audit of one model."""
    data: JsonValue = {
        "trusted": str(zoo / "data/cifar10/trusted.parquet"),
        "audited": str(zoo / f"data/cifar10/audited-{name}.parquet"),
        "preprocess": {"mean": [0.4914, 0.4822, 0.4465], "std": [0.247, 0.243, 0.261], "size": 32},
    }
    model: JsonValue = {"name": name, "architecture": str(zoo / "zoo/zoo_net.py:preact_resnet"), "weights": str(zoo / f"zoo/{name}.safetensors")}
    return {"root": str(cache / setting.replace(" ", "-")), "task": "classification", "models": [model], "data": data, **SETTINGS[setting]}


def figures(audit: Audit, name: str, truth_file: Path) -> dict[str, float]:
    """All figures of an audit, from its published table and the truth."""
    truth, table = pq.read_table(truth_file), audit.scores(name).read_all()
    anomalous = truth.column("anomalous").to_numpy().astype(bool)
    predictions = table.column("prediction").to_numpy()
    succeeded = anomalous & (predictions == truth.column("target").fill_null(-1).to_numpy())
    p_values, kept = table.column("p_value").to_numpy(), succeeded | ~anomalous
    found = {"auroc": float(roc_auc_score(succeeded[kept], table.column("score").to_numpy()[kept]))}
    for level in LEVELS:
        flagged = p_values <= level
        found[f"tpr@{level}"], found[f"fpr@{level}"] = float(flagged[succeeded].mean()), float(flagged[~anomalous].mean())
    found["worst_class_fpr"] = max(of_classes(p_values[~anomalous] <= LEVELS[-1], predictions[~anomalous]))
    return found


def of_classes(flagged: NDArray[np.bool_], predictions: NDArray[np.int64]) -> Iterator[float]:
    """The share of flagged samples of each predicted class that has enough."""
    for label in np.unique(predictions):
        if (predictions == label).sum() >= FEWEST_OF_CLASS:
            yield float(flagged[predictions == label].mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("zoo", type=Path, help="holds zoo/ with weights and zoo_net.py, and data/cifar10/ with trusted and audited files")
    parser.add_argument("--cache", type=Path, help="where results are kept; a folder for this run alone unless given")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS)
    parser.add_argument("--settings", nargs="+", choices=list(SETTINGS), default=list(SETTINGS))
    options = parser.parse_args()
    everything: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as name:
        cache = options.cache.resolve() if options.cache else Path(name)
        for setting in options.settings:
            for model in options.models:
                audit = run_audit(plan_audit(AuditConfig.parse(config(options.zoo.resolve(), model, setting, cache))))
                found = figures(audit, model, options.zoo / f"data/cifar10/audited-{model}.parquet")
                everything |= {f"{model}/{setting}/{figure}": round(value, 4) for figure, value in found.items()}
                print(f"{setting}, {model}: " + ", ".join(f"{figure} {value:.3f}" for figure, value in found.items()), file=sys.stderr, flush=True)
    print(json.dumps(everything))


if __name__ == "__main__":
    main()
