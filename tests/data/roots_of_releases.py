"""The roots of releases in tests/data/roots: their inputs, the configs of their nights, what readers must find."""

from pathlib import Path

from pydantic import JsonValue
from torch import nn

from infra.storage.storage import Storage
from pipeline.config.sections import Raw
from pipeline.results.audit import Audit
from tests.services import BUCKET

__all__ = ["BUCKET", "ROOTS"]
ROOTS = Path(__file__).parent / "roots"


def releases() -> list[str]:
    """Versions of which there is a root."""
    return sorted(path.name for path in ROOTS.iterdir() if path.is_dir())


def inputs_url(release: str) -> str:
    """Where the inputs of a release's root are, on the S3 that the environment names."""
    return f"s3://{BUCKET}/mad-{release}/inputs"


def upload_inputs(release: str) -> None:
    """Puts them there."""
    storage = Storage(inputs_url(release))
    for path in sorted((ROOTS / release / "inputs").iterdir()):
        if path.is_file():
            storage.upload(path.name, path)


def nights(release: str, root: str) -> list[Raw]:
    """The configs that a root was made by: a first night, one with a new file and a new model, and one where nothing
    changed."""
    place = inputs_url(release)
    common: Raw = {
        "root": root,
        "task": "classification",
        "estimator": {"projection": {"rank": 2}},
        "calibration": {"target": {"fpr": 0.1}},
        "run": {"rows_per_task": 64, "batch_size": 32},
    }
    preprocess: JsonValue = {"mean": [0.3, 0.3, 0.3], "std": [0.35, 0.35, 0.35], "size": 8}
    network: Raw = {"architecture": f"{place}/network.py:build", "weights": f"{place}/weights.safetensors"}
    traced: JsonValue = {
        "kind": "loss_trace",
        "sampling": f"{place}/sampling.parquet",
        "draws": 10,
        "burn_in": 2,
        "batch": 16,
    }
    gradients: list[JsonValue] = [
        {"name": "plain", **network},
        {"name": "factored", **network, "curvature": {"kind": "ekfac"}},
    ]

    def night(audited: str, models: list[JsonValue]) -> Raw:
        return {
            **common,
            "models": models,
            "data": {"trusted": f"{place}/trusted.parquet", "audited": f"{place}/{audited}", "preprocess": preprocess},
        }

    late = night("audited-*.parquet", [*gradients, {"name": "traced", **network, "estimator": traced}])
    return [night("audited-1.parquet", gradients[:1]), late, {**late, "models": gradients[:1]}]


def expected_of(audit: Audit, model: str) -> dict[str, JsonValue]:
    """What every later version must read: the verdict, and of each sample its id, score, p-value and flag."""
    summary, table = audit.summary(model), audit.scores(model).read_all()
    rows = [[row[name] for name in ("sample_id", "score", "p_value", "flagged")] for row in table.to_pylist()]
    shapes: list[JsonValue] = [list(audit.rows(model, "trusted").shape), list(audit.rows(model, "audited").shape)]
    return {
        "run_id": summary.run_id,
        "verdict": summary.verdict.json_object,
        "counts": summary.counts.json_object,
        "scores": rows,
        "rows": shapes,
    }


def network() -> nn.Module:
    """The network that all of them audit."""
    namespace: dict[str, object] = {}
    exec((ROOTS / "0.1.0/inputs/network.py").read_text(), namespace)
    build = namespace["build"]
    assert callable(build)
    module = build()
    assert isinstance(module, nn.Module)
    return module
