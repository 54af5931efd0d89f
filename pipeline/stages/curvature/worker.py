"""Stage 2: from trusted rows to the curvature, the reference part, and the calibration part's scores.

Tasks of a model: `split` divides the trusted samples; `factor` merges the reference part's moments in task order and
inverts them; `references` whitens the reference part and scores the calibration part against it. A changed score
repeats only the last. For `ekfac`, `basis` merges the moments of the sides first, and what is factored are the rows'
moments along its eigenvectors. Where the curvature is transductive, moments are of the reference part, the calibration
part and the audited samples alike, never of audited samples without the calibration part: that would make them look
unlike each other.

With more than PARTS_PER_SUM parts, `moment` tasks add up so many each first, then so many of their sums each, and so
on: a tree whose shape and order follow from the parts alone, so that the bytes do not depend on which task ended
first.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from infra.commits import Measures, Receipt
from infra.events import Stopwatch, peak_memory_bytes
from infra.execution.threads import map_in_threads
from infra.storage.pins import confirm
from infra.storage.storage import Storage
from madcore import BlockMoment, Damping, EigenvalueMoment, KroneckerMoment, RowLayout, Whitening
from madcore.curvature.moments import Moment
from madcore.curvature.whitening import Spectrum
from madcore.reprojection import Reprojection
from pipeline.artifacts.curvature import encode_moment, encode_references, encode_whitening, read_moment, read_whitening
from pipeline.artifacts.rows import SCORING_BLOCK, read_blocks
from pipeline.artifacts.screening import encode_screening, read_screening
from pipeline.artifacts.trusted import TrustedPart, TrustedSamples, encode_trusted, read_trusted
from pipeline.artifacts.truth import encode_truth
from pipeline.config.curvature import FACTORED, Absolute, CurvatureSection
from pipeline.errors import StageError
from pipeline.planning.plan import ModelPlan
from pipeline.root.logs import BASIS, EIGENVALUES, FACTOR, MOMENT, SPLIT, curvature_log
from pipeline.stages.curvature.split import files_of_truth, split_trusted, truth_of_trusted
from pipeline.stages.curvature.tasks import CurvatureTask
from pipeline.stages.scoring.scorer import Scorer


class CurvatureWorker:
    """Runs the tasks of this stage."""

    def __init__(self, root: str, plans: Mapping[str, ModelPlan]):
        """Open the storage."""
        self._storage, self._plans = Storage(root), plans

    def __call__(self, task: CurvatureTask) -> Receipt:
        """Compute and commit one task."""
        watch, plan = Stopwatch(), self._plans[task.model]
        if task.name == SPLIT:
            trusted, files = self._split(plan, task)
        else:
            trusted = read_trusted(self._storage, task.split)
            sums = dict.fromkeys((MOMENT, BASIS, EIGENVALUES), self._moment)
            method = {FACTOR: self._factor, **sums}.get(task.name.partition("-")[0], self._references)
            files = method(plan, task, trusted)
        measures = Measures(rows=len(trusted.ids), seconds=watch.seconds, peak_memory_bytes=peak_memory_bytes())
        return curvature_log(self._storage, plan.name, task.key).commit(task.name, files, measures)

    def _split(self, plan: ModelPlan, task: CurvatureTask) -> tuple[TrustedSamples, dict[str, bytes]]:
        """The parts, and their files; labels are stored too, so that another split of them needs no data file."""
        truth = truth_of_trusted(self._storage, plan, task.parts)
        trusted, screening = split_trusted(self._storage, plan, task.parts, truth)
        labelled = any("label" in source.truth for source in plan.trusted)
        files = {
            **encode_trusted(trusted),
            **(encode_screening(screening) if screening else {}),
            **(encode_truth(truth) if labelled else {}),
        }
        confirm(files_of_truth(plan))
        return trusted, files

    def _moment(self, plan: ModelPlan, task: CurvatureTask, trusted: TrustedSamples) -> dict[str, bytes]:
        return encode_moment(self._sum(plan, task, trusted))

    def _sum(self, plan: ModelPlan, task: CurvatureTask, trusted: TrustedSamples) -> Moment:
        """The moment of the task's range: of moments of a lower level where it has any, else of rows."""
        moment: Moment = self._zero(plan, task)
        for folder in task.moments[task.first : task.last]:
            moment = moment.merge(read_moment(self._storage, folder, moment))
        if not task.moments:
            for rows in self._rows_of(plan.reprojection or moment.accepts, task, plan, trusted):
                moment = moment.update(rows)
        return moment

    def _zero(self, plan: ModelPlan, task: CurvatureTask) -> Moment:
        """The moment of no rows, of the kind that the task adds up."""
        if task.basis:
            sides = read_moment(self._storage, task.basis, KroneckerMoment.zero(plan.sides))
            return EigenvalueMoment.zero(plan.layout, sides.finalize())
        factored = plan.config.curvature.kind in FACTORED
        return KroneckerMoment.zero(plan.sides) if factored else BlockMoment.zero(plan.layout)

    def _rows_of(
        self, layout: RowLayout | Reprojection, task: CurvatureTask, plan: ModelPlan, trusted: TrustedSamples
    ) -> Iterator[Tensor]:
        """Rows (b, k) that the curvature is made of, in the task's range of trusted parts followed by audited ones.

        Of samples without a gradient, which are no references, a transductive curvature of the loss has the rows: they
        are as good as zero, which is their Fisher information.
        """
        chosen: list[TrustedPart] = (
            ["reference", "calibration"] if plan.config.curvature.transductive else ["reference"]
        )
        for rows, _, ok in self._select(task, layout, trusted, *chosen):
            yield rows[ok]
        before = len(task.parts)
        for stored in task.audited[max(0, task.first - before) : max(0, task.last - before)]:
            for rows, samples in read_blocks(self._storage, stored, layout, SCORING_BLOCK):
                yield rows[samples.ok]

    def _factor(self, plan: ModelPlan, task: CurvatureTask, trusted: TrustedSamples) -> dict[str, bytes]:
        blocks, damping = self._sum(plan, task, trusted).finalize(), damping_of(plan.config.curvature)
        mean_eigenvalues = [block.mean_eigenvalue for block in blocks]
        whitening = whitening_of(plan.layout, blocks, damping)
        return encode_whitening(whitening, mean_eigenvalues, damping.of_all(blocks))

    def _references(self, plan: ModelPlan, task: CurvatureTask, trusted: TrustedSamples) -> dict[str, bytes]:
        whitening = read_whitening(self._storage, task.factor, plan.layout)
        whitened = torch.cat(
            [whitening(rows) for rows, _, _ in self._select(task, plan.row_reader, trusted, "reference")]
        )
        if not torch.isfinite(whitened).all():
            what = "traces" if plan.config.traced else "whitened rows"
            remedy = "lower estimator.step" if plan.config.traced else "raise curvature.damping"
            raise StageError(f"{what} of the reference part leave the range of float32; {remedy}")
        scorer = Scorer.of(plan, whitening, whitened, trusted)

        def scored(block: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
            rows, indices, ok = block
            found = scorer(rows, trusted.predictions[indices].clamp(min=0))
            scores, flat = found.score.double(), ok & (found.leverage == 0)
            return indices, torch.where(ok & ~flat & scores.isfinite(), scores, torch.inf), indices[flat]

        blocks = self._select(task, plan.row_reader, trusted, "calibration", "suspect calibration")
        without_gradient = set(trusted.flat)
        for indices, scores, flat in map_in_threads(scored, blocks):
            trusted.scores[indices.numpy()] = scores.numpy()
            without_gradient.update(flat.tolist())
        screening = read_screening(self._storage, task.split)
        settled = replace(trusted, flat=frozenset(without_gradient))
        return {**encode_references(whitened, settled), **(encode_screening(screening) if screening else {})}

    def _select(
        self, task: CurvatureTask, layout: RowLayout | Reprojection, trusted: TrustedSamples, *parts: TrustedPart
    ) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Rows (b, k) of parts of the trusted set, their samples' indices (b,), and which are ok (b,).

        They come block by block, in task order, of the task's range.
        """
        position = task.rows_per_sample * sum(stored.stop - stored.start for stored in task.parts[: task.first])
        for stored in task.parts[task.first : task.last]:
            for rows, samples in read_blocks(self._storage, stored, layout, SCORING_BLOCK):
                indices = torch.arange(position, position + len(samples.ids)) // task.rows_per_sample
                chosen = torch.tensor([trusted.parts[index] in parts for index in indices.tolist()])
                position += len(samples.ids)
                if chosen.any():
                    yield rows[chosen], indices[chosen], samples.ok[chosen]


def damping_of(section: CurvatureSection) -> Damping:
    """The damping of a config."""
    damping = section.damping
    if isinstance(damping, Absolute):
        return Damping("absolute", damping.value)
    return Damping("relative_mean", damping.factor)


def whitening_of(layout: RowLayout, blocks: Sequence[Spectrum], damping: Damping) -> Whitening:
    """The whitening of a curvature with one block per layer.

    Raises:
        StageError: the block of a layer cannot be inverted in float32.
    """
    whitening = Whitening.fit(layout, blocks, damping)
    if whitening.infinite:
        name, count = whitening.infinite[0], len(whitening.infinite)
        worst = blocks[layout.names.index(name)]
        raise StageError(
            f"the curvature of {count} layers cannot be inverted in float32, first that of {name} "
            f"(mean eigenvalue {worst.mean_eigenvalue:.3g}, damping {damping.of(worst):.3g}); "
            "raise curvature.damping, or exclude it in estimator.layers"
        )
    return whitening
