"""A planted trigger, and what one audit finds of it on the backdoored model and on that model's clean twin.

Both models are trained on the same inputs, triggered ones among them; only what they answer to the triggered ones
differs. So a score that sees a mechanism finds the trigger on the first model alone, and one that sees unusual inputs
finds it on both.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from pydantic import JsonValue
from scipy.stats import betabinom
from torch import Tensor, nn

from pipeline.config.audit_config import AuditConfig
from pipeline.planning.from_models import plan_audit
from pipeline.results.audit import Audit
from pipeline.root.facts import Performance
from pipeline.run import run_audit

Model = TypeVar("Model", bound=nn.Module)

RATE = 0.05

BROKEN = 1e-4  # how often a right implementation may break the bounds of the realised FPR


def trained(
    build: Callable[[], Model],
    loss: Callable[[Model, np.random.Generator], Tensor],
    steps: int,
    learning_rate: float,
    seed: int = 0,
) -> Model:
    """A model in eval mode after `steps` steps of AdamW, its learning rate going up to this one and down again.

    `loss` draws its batch from the generator that it is given, and returns one number.
    """
    torch.manual_seed(seed)
    rng, model = np.random.default_rng(seed), build().train()
    optimizer = torch.optim.AdamW((one for one in model.parameters() if one.requires_grad), learning_rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=steps)
    for _ in range(steps):
        optimizer.zero_grad()
        loss(model, rng).backward()
        optimizer.step()
        schedule.step()
    return model.eval()


def audited(folder: Path, task: str, models: Sequence[Mapping[str, JsonValue]], data: Mapping[str, JsonValue]) -> Audit:
    """The audit of these models on the same data, with the defaults but for the FPR, in the root `folder/root`."""
    raw: dict[str, JsonValue] = {
        "root": "root",
        "task": task,
        "models": [dict(model) for model in models],
        "data": dict(data),
        "calibration": {"target": {"fpr": RATE}},
    }
    audit = run_audit(plan_audit(AuditConfig.parse(raw, str(folder))))
    assert audit.outcome is not None and audit.outcome.clean
    return audit


@dataclass(frozen=True)
class Found:
    """The AUROC of the planted trigger on both models, and the clean twin's realised FPR.

    `clean`: how many audited samples have no trigger. `calibration`: how many trusted ones calibrate the twin.
    """

    backdoored: float
    twin: float
    fpr: float
    clean: int
    calibration: int

    @property
    def flagged(self) -> int:
        """How many of the clean samples the twin's audit flags."""
        return round(self.fpr * self.clean)

    def __str__(self) -> str:
        low, high = flagged_bounds(self.clean, self.calibration)
        return (
            f"AUROC {self.backdoored:.4f} on the backdoored model and {self.twin:.4f} on its clean twin, whose FPR is "
            f"{self.fpr:.4f}: {self.flagged} of {self.clean}, where {low} to {high} are within chance"
        )


def found(audit: Audit, backdoored: str = "backdoored", twin: str = "twin") -> Found:
    """What the summaries of both models say of samples whose truth is `anomalous`."""
    ours, clean = performance(audit, backdoored), performance(audit, twin)
    assert ours.auroc is not None and clean.auroc is not None and clean.at_calibrated.fpr is not None
    calibration = audit.summary(twin).calibration.calibration
    return Found(ours.auroc, clean.auroc, clean.at_calibrated.fpr, clean.benign, calibration)


def performance(audit: Audit, model: str) -> Performance:
    """How well a model's scores tell anomalous samples from the others."""
    evaluation = audit.summary(model).evaluation
    assert evaluation is not None and evaluation.all is not None
    return evaluation.all


def flagged_bounds(clean: int, calibration: int, rate: float = RATE) -> tuple[int, int]:
    """The least and the most of `clean` samples that are flagged, but for one audit in 1 / BROKEN.

    A clean sample is flagged if it ranks among the first k of itself and the `calibration` samples, k the whole part of
    rate (calibration + 1). All scores being exchangeable and different, the number is beta-binomial.
    """
    first = int((np.arange(1, calibration + 1) / (calibration + 1) <= rate).sum())
    number = betabinom(clean, first, calibration + 1 - first)
    return int(number.ppf(BROKEN / 2)), int(number.ppf(1 - BROKEN / 2))


def assert_calibrated(seen: Found) -> None:
    """Fails where the twin's realised FPR cannot be chance."""
    low, high = flagged_bounds(seen.clean, seen.calibration)
    assert low <= seen.flagged <= high, seen
