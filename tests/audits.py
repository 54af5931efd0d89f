"""Audits that tests begin with, and what they read off them.

An audit of the demo costs a second, so tests that begin with the same one share it: `Prepared` runs it once a session
and gives each test a copy of its root.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from pydantic import JsonValue
from safetensors.torch import load_file
from torch import Tensor, nn

from infra.storage.storage import Storage
from pipeline.artifacts.curvature import read_reference_rows
from pipeline.artifacts.trusted import TrustedSamples, read_trusted
from pipeline.config.audit_config import AuditConfig, merge
from pipeline.config.samples import Preprocess
from pipeline.config.sections import Raw
from pipeline.data.images.decoding import decode
from pipeline.data.images.reading import scale_pixels
from pipeline.demo.network import digit_cnn
from pipeline.planning.from_models import plan_audit
from pipeline.results.audit import Audit
from pipeline.root.layout import published_runs, table_file
from pipeline.root.logs import stage_logs
from pipeline.run import run_audit

Counts = dict[str, tuple[int, int]]

AuditMaker = Callable[[AuditConfig], Audit]


INPUTS = ("trusted.parquet", "audited.parquet", "digits.safetensors")


def demo_config(root: Path) -> Raw:
    """The demo's config, to be read from the folder of its inputs."""
    return {
        "root": str(root),
        "task": "classification",
        "models": [
            {"name": "digits", "architecture": "pipeline.demo.network:digit_cnn", "weights": "digits.safetensors"}
        ],
        "data": {
            "trusted": "trusted.parquet",
            "audited": "audited.parquet",
            "preprocess": {"mean": [0.3, 0.3, 0.3], "std": [0.35, 0.35, 0.35], "size": 8},
        },
    }


def link_inputs(digits: Path, folder: Path) -> None:
    """Makes the demo's inputs those of another folder too."""
    for name in INPUTS:
        (folder / name).symlink_to(digits / name)


def upload_inputs(digits: Path, storage: Storage, folder: str = "") -> None:
    """Copies the demo's inputs into a folder of a storage."""
    for name in INPUTS:
        storage.upload(f"{folder}{name}", digits / name)


def with_inputs(raw: Raw, url: str) -> Raw:
    """The demo's config with inputs that lie in this folder, wherever the config is read from."""
    model: JsonValue = {
        "name": "digits",
        "architecture": "pipeline.demo.network:digit_cnn",
        "weights": f"{url}/digits.safetensors",
    }
    files: JsonValue = {split: f"{url}/{split}.parquet" for split in ("trusted", "audited")}
    return merge({**raw, "models": [model]}, {"data": files})


def only_table(storage: Storage, model: str = "digits") -> bytes:
    """The bytes of the only published table of a model."""
    runs = list(published_runs(storage, model))
    assert len(runs) == 1, f"expected exactly one published table, found {runs}"
    return storage.read(table_file(model, runs[0]))


def audited(config: AuditConfig) -> Audit:
    """The audit after a run of this config."""
    return run_audit(plan_audit(config))


@dataclass(frozen=True)
class Prepared:
    """Audits that were run once. Called with a config whose root is not there yet, it makes that root by copying one.

    Two configs that differ in nothing but the root share an audit. So the files that a config names must be those of
    the session, which no test changes.
    """

    folder: Path
    known: dict[str, Audit] = field(default_factory=dict)

    def __call__(self, config: AuditConfig) -> Audit:
        document = json.dumps(config.model_dump(mode="json", exclude={"root"}), sort_keys=True)
        name = hashlib.sha256(document.encode()).hexdigest()[:16]
        if name not in self.known:
            self.known[name] = audited(config.model_copy(update={"root": str(self.folder / name)}))
        shutil.copytree(self.folder / name, config.root)
        return Audit(Storage(config.root), self.known[name].outcome)


def counts(audit: Audit, model: str = "digits") -> Counts:
    """(tasks run, tasks reused) of a model in the run that returned the audit, by stage."""
    assert audit.outcome is not None
    return {stage: (cost.tasks_run, cost.tasks_reused) for stage, cost in audit.outcome.stages[model].items()}


def gradient_tasks(audit: Audit, model: str = "digits") -> int:
    """How many tasks of rows the latest completed run computed."""
    return audit.summary(model).stages["gradients"].tasks_run


def table(audit: Audit, model: str = "digits") -> pa.Table:
    """The published table of the latest completed run."""
    return audit.scores(model).read_all()


def scores(audit: Audit, model: str = "digits") -> NDArray[np.float64]:
    """The scores of the latest completed run, in the order of its table."""
    return np.asarray(table(audit, model).column("score").to_numpy(), np.float64)


def network(digits: Path) -> nn.Module:
    """The demo's trained classifier."""
    model = digit_cnn().eval()
    model.load_state_dict(load_file(digits / "digits.safetensors"))
    return model


def images(path: Path, preprocess: Preprocess) -> Tensor:
    """The pictures of a file of digits, (n, 3, 8, 8), as an audit gives them to its model."""
    pictures = pq.read_table(path).column("image").to_pylist()
    pixels = np.stack([decode(picture["bytes"], (8, 8), resize=True) for picture in pictures])
    return torch.from_numpy(scale_pixels(pixels, preprocess))


def with_column(data: pa.Table, name: str, values: Sequence[object]) -> pa.Table:
    """The table with other values in a column."""
    field = data.schema.field(name)
    return data.set_column(data.schema.get_field_index(name), field, pa.array(values, field.type))


def references(audit: Audit, model: str = "digits") -> tuple[TrustedSamples, Tensor]:
    """The trusted samples of the only curvature of a model, and the whitened rows of its reference part."""
    log = next(stage_logs(audit.storage, model, "curvature"))
    receipt = next(receipt for name, receipt in log.receipts().items() if name.startswith("references"))
    folder = log.attempt_folder(receipt)
    return read_trusted(audit.storage, folder), read_reference_rows(audit.storage, folder)
