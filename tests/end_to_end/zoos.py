"""A small zoo in a root: variants of the demo's classifier, its trusted digits, and audited ones in a file a day."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq
import torch
from pydantic import JsonValue
from safetensors.torch import load_file, save_file

from pipeline.config.audit_config import AuditConfig, merge
from pipeline.planning.from_models import plan_audit
from pipeline.results.audit import Audit
from pipeline.run import run_audit
from tests.audits import counts
from tests.processes import FORKED, ended

DAY_ROWS, THREE = 100, ("ant", "bee", "cat")


@dataclass(frozen=True)
class Zoo:
    """Files in a folder of a test's own, made from those of the demo."""

    folder: Path
    digits: Path

    def model(self, name: str, seed: int) -> None:
        """The demo's weights under this name, with a little noise on matrices only: a variance must stay positive."""
        noise, weights = torch.Generator().manual_seed(seed), load_file(self.digits / "digits.safetensors")
        for key, value in weights.items():
            if value.ndim > 1:
                weights[key] = value + 0.01 * torch.randn(value.shape, generator=noise)
        save_file(weights, self.folder / f"{name}.safetensors")

    def day(self, number: int, start: int | None = None) -> None:
        """A day's file of DAY_ROWS audited samples, from `start` on; every day has others unless told."""
        table = pq.read_table(self.digits / "audited.parquet")
        pq.write_table(
            table.slice(DAY_ROWS * number if start is None else start, DAY_ROWS), self.folder / f"day{number}.parquet"
        )

    def trusted(self, rows: int) -> None:
        """The trusted set: so many digits."""
        pq.write_table(pq.read_table(self.digits / "trusted.parquet").slice(0, rows), self.folder / "trusted.parquet")

    def raw(self, models: Sequence[str], **sections: JsonValue) -> dict[str, JsonValue]:
        """The config of an audit of these models; sections merge over it."""
        small: dict[str, JsonValue] = {
            "root": "root",
            "task": "classification",
            "models": [
                {"name": name, "architecture": "pipeline.demo.network:digit_cnn", "weights": f"{name}.safetensors"}
                for name in models
            ],
            "data": {
                "trusted": "trusted.parquet",
                "audited": "day*.parquet",
                "preprocess": {"mean": [0.3, 0.3, 0.3], "std": [0.35, 0.35, 0.35], "size": 8},
            },
            "calibration": {"target": {"fpr": 0.05}},
            "run": {"rows_per_task": 128, "batch_size": 64},
        }
        return merge(small, sections)

    def config(self, models: Sequence[str], **sections: JsonValue) -> AuditConfig:
        """The same, parsed."""
        return AuditConfig.parse(self.raw(models, **sections), str(self.folder))


def ran(audit: Audit) -> dict[str, int]:
    """How many tasks were run for each model for which any was."""
    assert audit.outcome is not None
    totals = {model: sum(run for run, _ in counts(audit, model).values()) for model in audit.outcome.stages}
    return {model: total for model, total in totals.items() if total}


def cpu_seconds_of_a_quiet_night(config: AuditConfig, scratch: Path) -> float:
    """What a night without a change costs a process that has only been started; its children count too."""
    measured = scratch / "cpu-seconds"
    process = FORKED.Process(target=_quiet_night, args=(config, measured))
    process.start()
    assert ended(process) == 0
    return float(measured.read_text())


def _quiet_night(config: AuditConfig, measured: Path) -> None:
    before = os.times()
    assert ran(run_audit(plan_audit(config))) == {}
    measured.write_text(str(sum(now - then for now, then in zip(os.times()[:4], before[:4], strict=True))))


def three_models(folder: Path, digits: Path) -> Zoo:
    """The models of THREE, 200 trusted digits, two days; nothing is audited yet."""
    made = Zoo(folder, digits)
    for seed, name in enumerate(THREE):
        made.model(name, seed)
    made.trusted(200)
    made.day(0)
    made.day(1)
    return made
