"""The split of the trusted set: which samples explain, which calibrate, and which do neither."""

import numpy as np
import torch

from infra.storage import Storage
from madcore import split_order
from madcore.calibration import calibration_size
from pipeline.artifacts.curvature import Part, TrustedSamples
from pipeline.artifacts.rows import RowsPart, read_samples
from pipeline.errors import StageError
from pipeline.gradients import UNREADABLE
from pipeline.plan import ModelPlan
from pipeline.sources.datasets import MISSING_CLASS, read_truth


def split_trusted(storage: Storage, plan: ModelPlan, parts: tuple[RowsPart, ...]) -> TrustedSamples:
    """Divides the trusted samples: calibration first, unfiltered; of the rest, those predicted correctly are the reference part.

    Raises:
        StageError: no reference sample is left.
    """
    ids, readable, correct, predictions = [], [], [], []
    sources = {source.key: source for source in plan.trusted}
    for stored in parts:
        samples, labels = read_samples(storage, stored), torch.from_numpy(read_truth(sources[stored.source_key], stored.start, stored.stop).label)
        ids += samples.ids
        readable += [not status.startswith(UNREADABLE) for status in samples.statuses]
        correct += (samples.ok & ((labels == MISSING_CLASS) | (labels == samples.predictions))).tolist()
        predictions.append(samples.predictions)
    parted = _parts(ids, readable, correct, plan)
    trusted = TrustedSamples(ids, parted, torch.cat(predictions), np.full(len(ids), np.nan))
    if "reference" not in parted:
        raise StageError(
            f"model {plan.name}: the reference part is empty: of {sum(readable)} readable trusted samples, none outside the calibration part "
            + ("has a finite gradient; check the weights" if plan.config.is_text else "is predicted correctly; check the labels and data.preprocess")
        )
    return trusted


def _parts(ids: list[str], readable: list[bool], correct: list[bool], plan: ModelPlan) -> list[Part]:
    parts: list[Part] = ["reference" if right else "filtered" if can else "unreadable" for can, right in zip(readable, correct, strict=True)]
    candidates = [index for index, can in enumerate(readable) if can]
    order = split_order([ids[index] for index in candidates], plan.config.calibration.seed)
    for place in order[: calibration_size(len(candidates), plan.config.calibration.fraction)]:
        parts[candidates[place]] = "calibration"
    return parts
