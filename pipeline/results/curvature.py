"""The curvature once more, by Dask, from the rows that a root stores: no model is loaded, and of the audited data nothing is read.

Each task sums the moment of one part of the rows, block by block; FAN_IN sums at a time are merged, then FAN_IN of those, and so on; of
`ekfac` twice, the second time along the eigenvectors of the first sums. So memory holds a few moments and blocks a thread, however many
rows there are. Where it runs is a setting of Dask's own: the threads of this process; the scheduler of a `distributed.Client`, once
there is one; a Ray cluster, under `dask.config.set(scheduler=ray.util.dask.ray_dask_get)`. The last two need the extra `mad[dask]`:
Ray's scheduler of Dask graphs imports pandas. Workers elsewhere need mad, and reach the root as this process does.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from dask.delayed import Delayed, delayed
from numpy.typing import NDArray
from torch import Tensor

from infra.execution.threads import run_in_compute_thread
from infra.storage.storage import Storage
from madcore import BlockMoment, Damping, EigenvalueMoment, KroneckerMoment, RowLayout, SideLayout, Whitening
from madcore.curvature.moments import Moment
from pipeline.artifacts.curvature import read_trusted
from pipeline.artifacts.rows import SCORING_BLOCK, RowsPart, StoredBlock, open_rows, read_stored
from pipeline.config.schema import FACTORED, CurvatureSection
from pipeline.errors import RootError
from pipeline.planning.recipe import RowRecipe
from pipeline.results.rows import Summary, covered, layout_of, receipts, stored_parts
from pipeline.root.layout import run_file
from pipeline.root.logs import SPLIT
from pipeline.root.records import read_document
from pipeline.stages.curvature.worker import damping_of, whitening_of

FAN_IN = 4


@dataclass(frozen=True)
class FittedPart:
    """A part of the rows that a curvature is fitted on, and which of its samples count, (samples,) bool; None is all of them."""

    part: RowsPart
    chosen: NDArray[np.bool_] | None = None


@dataclass(frozen=True)
class StoredCurvature:
    """A run's curvature to be rebuilt from stored rows. Nothing is computed before `.compute()` is called, of either.

    `moment` computes to the moment of what the run's curvature was fitted on: a `madcore.BlockMoment`, of `kfac` a `KroneckerMoment`, of `ekfac`
    an `EigenvalueMoment`. `whitening` computes to the `madcore.Whitening` under `damping`; `layout` is that of the rows.
    """

    layout: RowLayout
    damping: Damping
    moment: Delayed
    whitening: Delayed

    @classmethod
    def of(cls, storage: Storage, summary: Summary, damping: Damping | None = None) -> "StoredCurvature":
        """From the summary of a run, with the run's own damping where none is given.

        Raises:
            RootError: the run's curvature is not made of moments of stored rows, or rows are missing, because tasks failed.
        """
        section, name = _section(summary), str(summary["model"])
        own = _fitted_parts(storage, summary, section.transductive, apart=False)
        layout, used = layout_of(summary, open_rows(storage, own[0].part)), damping or damping_of(section)
        fitted = (
            own if section.kind == "block_moment" else _fitted_parts(storage, summary, section.transductive, apart=True)
        )
        zero: Moment = (
            KroneckerMoment.zero(_sides(storage, summary)) if section.kind in FACTORED else BlockMoment.zero(layout)
        )
        moment = _sum(storage.url, fitted, delayed(zero, traverse=False))
        if section.kind == "ekfac":
            moment = _sum(storage.url, own, delayed(_along)(layout, moment))
        return cls(layout, used, moment, delayed(_whitening_of)(name, layout, moment, used))


def _section(summary: Summary) -> CurvatureSection:
    settings = summary["settings"]
    section = CurvatureSection.model_validate(settings["curvature"] if isinstance(settings, dict) else {})
    if section.kind == "identity":
        raise RootError(
            f"model {summary['model']}: the curvature of its latest run is identity, which has no moment and whitens nothing; any other kind has one"
        )
    return section


def _sides(storage: Storage, summary: Summary) -> SideLayout:
    """What is stored of the sides of the run's layers.

    Raises:
        RootError: an earlier version recorded nothing of it.
    """
    models = (read_document(storage, run_file(str(summary["run_id"]))) or {}).get("models")
    entry = models.get(str(summary["model"])) if isinstance(models, dict) else None
    if not isinstance(entry, dict) or "rows" not in entry:
        raise RootError(
            f"model {summary['model']}: its latest run is of an earlier version of mad, which did not record what its rows are made of; `mad run` does"
        )
    return RowRecipe.model_validate(entry["rows"]).sides.of_layers(covered(summary))


def _fitted_parts(storage: Storage, summary: Summary, transductive: bool, apart: bool) -> list[FittedPart]:
    """As the pipeline's own: of the trusted samples the reference part, and where it is transductive the calibration part and all audited ones too.

    `apart`: of the rows that the curvature is fitted on beside the samples' own.
    """
    whom = {"reference", "calibration"} if transductive else {"reference"}
    split = next(
        log.attempt_folder(receipt) for log, receipt in receipts(storage, summary, "curvature") if receipt.task == SPLIT
    )
    counts = np.array([part in whom for part in read_trusted(storage, split).parts])
    fitted, position = list[FittedPart](), 0
    for part in stored_parts(storage, summary, "trusted", apart):
        chosen = counts[position : (position := position + part.stop - part.start)]
        if chosen.any():
            fitted.append(FittedPart(part, chosen))
    return fitted + [
        FittedPart(part) for part in (stored_parts(storage, summary, "audited", apart) if transductive else ())
    ]


def _sum(url: str, parts: Sequence[FittedPart], zero: Delayed) -> Delayed:
    """The moment of parts, from the moment of no rows: sums of parts, then of FAN_IN sums at a time."""
    add_up, merge = delayed(_moment_of), delayed(_merged)
    level: list[Delayed] = [add_up(url, part, zero) for part in parts]
    while len(level) > 1:
        level = [merge(level[start : start + FAN_IN]) for start in range(0, len(level), FAN_IN)]
    return level[0]


def _moment_of(url: str, fitted: FittedPart, zero: Moment) -> Moment:
    """The moment of a part's rows that count, computed block by block in the process's computing thread."""
    storage, moment, position = Storage(url), zero, 0
    samples = fitted.part.stop - fitted.part.start
    chosen = torch.ones(samples, dtype=torch.bool) if fitted.chosen is None else torch.from_numpy(fitted.chosen.copy())
    draws = int(open_rows(storage, fitted.part).shape[0]) // samples
    for block in read_stored(storage, fitted.part, zero.accepts, SCORING_BLOCK):
        places = torch.arange(position, position + len(block.stored)) // draws
        position += len(block.stored)
        moment = run_in_compute_thread(_added, moment, block, block.samples.ok & chosen[places])
    return moment


def _added(moment: Moment, block: StoredBlock, counts: Tensor) -> Moment:
    return moment.update(block.rows[counts])


def _merged(moments: Sequence[Moment]) -> Moment:
    total = moments[0]
    for moment in moments[1:]:
        total = run_in_compute_thread(total.merge, moment)
    return total


def _along(layout: RowLayout, moment: KroneckerMoment) -> EigenvalueMoment:
    """The moment of no rows along the eigenvectors of Kronecker factors."""
    return EigenvalueMoment.zero(layout, run_in_compute_thread(moment.finalize))


def _whitening_of(model: str, layout: RowLayout, moment: Moment, damping: Damping) -> Whitening:
    return whitening_of(model, layout, run_in_compute_thread(moment.finalize), damping)
