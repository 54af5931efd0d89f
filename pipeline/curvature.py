"""Stage 2: from trusted rows to the curvature, the reference part, and the calibration part's scores.

Two tasks a model: `factor` merges the reference part's moments in task order and inverts them; `references` whitens the reference
part and scores the calibration part against it. A changed score repeats only the second.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from infra.commits import Measures, Receipt
from infra.events import Stopwatch, peak_memory_bytes
from infra.storage import Storage
from madcore import BlockMoment, Damping, References, RowLayout, Whitening, score, split_order
from madcore.calibration import calibration_size
from madcore.coupling import Scored, ScoreKind
from pipeline.artifacts.curvature import Part, TrustedSamples, encode_references, encode_whitening, read_whitening
from pipeline.artifacts.logs import curvature_log
from pipeline.artifacts.rows import RowsPart, read_blocks, read_samples
from pipeline.errors import StageError
from pipeline.gradients import UNREADABLE
from pipeline.keys import key_of
from pipeline.memory import SCORING_BLOCK
from pipeline.plan import ModelPlan
from pipeline.schema import Absolute, CurvatureSection
from pipeline.sources.datasets import MISSING_CLASS, read_truth

CURVATURE_FORMAT = 1
FACTOR = "factor"


@dataclass(frozen=True)
class CurvatureTask:
    """The trusted parts to read, in task order; `factor` is the folder that the references need, "" for identity."""

    model: str
    name: str
    key: str
    parts: tuple[RowsPart, ...]
    factor: str = ""


def curvature_key(plan: ModelPlan, parts: tuple[RowsPart, ...]) -> str:
    """Of the trusted rows' contents, the split, the filter, the curvature and its damping."""
    return key_of(
        format=CURVATURE_FORMAT,
        rows=[[part.source_key, part.start, part.content] for part in parts],
        labels={source.key: source.columns.label for source in plan.trusted if "label" in source.truth},
        layers=list(plan.layout.names),
        curvature=plan.config.curvature.model_dump(mode="json"),
        split=[plan.config.calibration.fraction, plan.config.calibration.seed],
    )


def references_name(plan: ModelPlan) -> str:
    """The task's name: it depends on the score too."""
    return f"references-{key_of(score=plan.config.score.model_dump(mode='json'), classes=plan.classes)}"


class CurvatureWorker:
    """Runs both tasks."""

    def __init__(self, root: str, plans: dict[str, ModelPlan]):
        """Opens the storage."""
        self._storage, self._plans = Storage(root), plans

    def __call__(self, task: CurvatureTask) -> Receipt:
        """Computes and commits one task."""
        watch, plan = Stopwatch(), self._plans[task.model]
        trusted = split_trusted(self._storage, plan, task.parts)
        files = self._factor(plan, task, trusted) if task.name == FACTOR else self._references(plan, task, trusted)
        measures = Measures(rows=len(trusted.ids), seconds=watch.seconds, peak_memory_bytes=peak_memory_bytes())
        return curvature_log(self._storage, plan.name, task.key).commit(task.name, files, measures)

    def _factor(self, plan: ModelPlan, task: CurvatureTask, trusted: TrustedSamples) -> dict[str, bytes]:
        moment = BlockMoment.zero(plan.layout)
        for rows, _, _ in self._select(task, plan.layout, trusted, "reference"):
            moment = moment.update(rows)
        blocks, damping = moment.finalize(), _damping(plan.config.curvature)
        mean_eigenvalues = [float(block.trace()) / len(block) for block in blocks]
        whitening = Whitening.fit(plan.layout, blocks, damping)
        if whitening.infinite:
            name = whitening.infinite[0]
            worst = plan.layout.names.index(name)
            raise StageError(
                f"model {plan.name}: the curvature of {len(whitening.infinite)} layers cannot be inverted in float32, first that of {name} (mean eigenvalue "
                f"{mean_eigenvalues[worst]:.3g}, damping {damping.of(blocks[worst]):.3g}); raise curvature.damping, or exclude it in estimator.layers"
            )
        return encode_whitening(whitening, mean_eigenvalues, damping.of_all(blocks))

    def _references(self, plan: ModelPlan, task: CurvatureTask, trusted: TrustedSamples) -> dict[str, bytes]:
        whitening = read_whitening(self._storage, task.factor, plan.layout)
        whitened = torch.cat([whitening(rows) for rows, _, _ in self._select(task, plan.layout, trusted, "reference")])
        if not torch.isfinite(whitened).all():
            raise StageError(f"model {plan.name}: whitened rows of the reference part leave the range of float32; raise curvature.damping")
        scorer = Scorer.of(plan, whitening, whitened, trusted)
        for rows, indices, ok in self._select(task, plan.layout, trusted, "calibration"):
            scores = scorer(rows, trusted.predictions[indices].clamp(min=0)).score.double()
            trusted.scores[indices.numpy()] = torch.where(ok & scores.isfinite(), scores, torch.inf).numpy()
        return encode_references(whitened, trusted)

    def _select(self, task: CurvatureTask, layout: RowLayout, trusted: TrustedSamples, part: Part) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Rows (b, k) of one part of the trusted set, their indices (b,), and which are ok (b,), block by block in task order."""
        position = 0
        for stored in task.parts:
            for rows, samples in read_blocks(self._storage, stored, layout, SCORING_BLOCK):
                indices = torch.arange(position, position + len(samples.ids))
                chosen = torch.tensor([trusted.parts[index] == part for index in indices.tolist()])
                position += len(samples.ids)
                if chosen.any():
                    yield rows[chosen], indices[chosen], samples.ok[chosen]


@dataclass(frozen=True)
class Scorer:
    """Scores blocks of rows as a model's config asks, calibration samples and audited ones alike."""

    references: References
    whitening: Whitening
    kind: ScoreKind

    @classmethod
    def of(cls, plan: ModelPlan, whitening: Whitening, whitened_mk: Tensor, trusted: TrustedSamples) -> "Scorer":
        """From the reference part's whitened rows (m, k)."""
        config = plan.config.score
        references = References.of(plan.layout, config.layers_form, whitened_mk, trusted.reference_predictions, plan.classes)
        return cls(replace(references, q=config.nearest), whitening, config.resolved)

    def __call__(self, rows_bk: Tensor, predictions_b: Tensor) -> Scored:
        """Scores of at most SCORING_BLOCK rows, not yet whitened.

        Blocks are filled up to one size: matrix products of another size add in another order, and the last bit decides between a
        calibration score and an equal audited one, where ties must count against the sample.
        """
        samples = len(rows_bk)
        rows = torch.nn.functional.pad(rows_bk, (0, 0, 0, SCORING_BLOCK - samples))
        predictions = torch.nn.functional.pad(predictions_b, (0, SCORING_BLOCK - samples))
        return score(self.references, self.kind, self.whitening(rows), predictions).first(samples)


def _damping(section: CurvatureSection) -> Damping:
    damping = section.damping
    return Damping("absolute", damping.value) if isinstance(damping, Absolute) else Damping("relative_mean", damping.factor)


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
            "is predicted correctly; check the labels and data.preprocess"
        )
    return trusted


def _parts(ids: list[str], readable: list[bool], correct: list[bool], plan: ModelPlan) -> list[Part]:
    parts: list[Part] = ["reference" if right else "filtered" if can else "unreadable" for can, right in zip(readable, correct, strict=True)]
    candidates = [index for index, can in enumerate(readable) if can]
    order = split_order([ids[index] for index in candidates], plan.config.calibration.seed)
    for place in order[: calibration_size(len(candidates), plan.config.calibration.fraction)]:
        parts[candidates[place]] = "calibration"
    return parts
