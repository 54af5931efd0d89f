"""The curvature rebuilt by Dask from the rows that a root stores: no model is loaded and no audited file is read.

Each task sums the moment of one part of the rows, block by block; MERGED_AT_ONCE sums at a time are merged, then as
many of those, and so on. For `ekfac` this is done twice, the second time along the eigenvectors of the first sums. So
each thread holds a few moments and blocks, however many rows there are.

Where it runs is a setting of Dask's own: the threads of this process; the scheduler of a `distributed.Client`, once
there is one; a Ray cluster, under `dask.config.set(scheduler=ray.util.dask.ray_dask_get)`. The last two need the
extra `dask`: Ray's scheduler of Dask graphs imports pandas. Workers elsewhere need mad installed, and the same
access to the root as this process.
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
from pipeline.artifacts.parts import RowsPart
from pipeline.artifacts.rows import SCORING_BLOCK, StoredBlock, open_rows, read_stored
from pipeline.artifacts.trusted import read_trusted
from pipeline.config.curvature import FACTORED, CurvatureSection
from pipeline.errors import RootError
from pipeline.planning.recipe import RowRecipe
from pipeline.results.rows import layout_of, receipts, stored_parts
from pipeline.root.logs import SPLIT
from pipeline.root.records import read_record
from pipeline.root.summary import Summary
from pipeline.stages.curvature.worker import damping_of, whitening_of

MERGED_AT_ONCE = 4


@dataclass(frozen=True)
class CurvaturePart:
    """A part of the rows that a curvature is made of, and which samples count, (samples,) bool; None is all."""

    part: RowsPart
    chosen: NDArray[np.bool_] | None = None


@dataclass(frozen=True)
class StoredCurvature:
    """A run's curvature, to be rebuilt from stored rows; nothing is computed before `.compute()` of a value.

    `moment` computes to the moment of the rows that the run's curvature was made of: a `madcore.BlockMoment`, for
    `kfac` a `KroneckerMoment`, for `ekfac` an `EigenvalueMoment`. `whitening` computes to the `madcore.Whitening`
    under `damping`; `layout` is that of the rows.
    """

    layout: RowLayout
    damping: Damping
    moment: Delayed
    whitening: Delayed

    @classmethod
    def of(cls, storage: Storage, summary: Summary, damping: Damping | None = None) -> "StoredCurvature":
        """From the summary of a run, with the run's own damping where none is given.

        Raises:
            RootError: the run's curvature is not made of moments of stored rows, or rows are missing, because tasks
            failed.
        """
        section = _section(summary)
        own = _curvature_parts(storage, summary, section.transductive, apart=False)
        layout, used = layout_of(summary, open_rows(storage, own[0].part)), damping or damping_of(section)
        zero: Moment = BlockMoment.zero(layout)
        if section.kind in FACTORED:
            zero = KroneckerMoment.zero(_sides(storage, summary))
        parts = own
        if section.kind != "block_moment":
            parts = _curvature_parts(storage, summary, section.transductive, apart=True)
        moment = _sum(storage.url, parts, delayed(zero, traverse=False))
        if section.kind == "ekfac":
            moment = _sum(storage.url, own, delayed(_along)(layout, moment))
        return cls(layout, used, moment, delayed(_whitening_of)(layout, moment, used))


def _section(summary: Summary) -> CurvatureSection:
    section = CurvatureSection.model_validate(summary.settings.get("curvature", {}))
    if section.kind == "identity":
        reason = "the curvature of its latest run is identity, which has no moment and whitens nothing"
        raise RootError(f"model {summary.model}: {reason}; any other kind has one")
    return section


def _sides(storage: Storage, summary: Summary) -> SideLayout:
    """The sides of the run's layers, as its rows are stored.

    Raises:
        RootError: the run is of an earlier version, which did not record them.
    """
    record = read_record(storage, summary.run_id)
    planned = record.models.get(summary.model) if record is not None else None
    if planned is None or planned.rows is None:
        reason = "its latest run is of an earlier version of mad, which did not record what its rows are made of"
        raise RootError(f"model {summary.model}: {reason}; `mad run` does")
    return RowRecipe.model_validate(planned.rows).sides.of_layers(summary.layers.covered)


def _curvature_parts(storage: Storage, summary: Summary, transductive: bool, apart: bool) -> list[CurvaturePart]:
    """The rows that the pipeline makes the curvature of.

    Those of the reference part, and where it is transductive of the calibration part and all audited samples as well.

    `apart`: the rows that the curvature needs besides the samples' own, instead of those.
    """
    used = {"reference", "calibration"} if transductive else {"reference"}
    listed = receipts(storage, summary, "curvature")
    split = next(log.attempt_folder(receipt) for log, receipt in listed if receipt.task == SPLIT)
    counts = np.array([part in used for part in read_trusted(storage, split).parts])
    found, position = list[CurvaturePart](), 0
    for part in stored_parts(storage, summary, "trusted", apart):
        chosen = counts[position : (position := position + part.stop - part.start)]
        if chosen.any():
            found.append(CurvaturePart(part, chosen))
    if transductive:
        found += [CurvaturePart(part) for part in stored_parts(storage, summary, "audited", apart)]
    return found


def _sum(url: str, parts: Sequence[CurvaturePart], zero: Delayed) -> Delayed:
    """The moment of parts, from the moment of no rows: sums of parts, then of MERGED_AT_ONCE sums at a time."""
    add_up, merge = delayed(_moment_of), delayed(_merged)
    level: list[Delayed] = [add_up(url, part, zero) for part in parts]
    while len(level) > 1:
        level = [merge(level[start : start + MERGED_AT_ONCE]) for start in range(0, len(level), MERGED_AT_ONCE)]
    return level[0]


def _moment_of(url: str, rows: CurvaturePart, zero: Moment) -> Moment:
    """The moment of a part's rows that count, computed block by block in the process's computing thread."""
    storage, moment, position = Storage(url), zero, 0
    samples = rows.part.stop - rows.part.start
    chosen = torch.ones(samples, dtype=torch.bool) if rows.chosen is None else torch.from_numpy(rows.chosen.copy())
    draws = int(open_rows(storage, rows.part).shape[0]) // samples
    for block in read_stored(storage, rows.part, zero.accepts, SCORING_BLOCK):
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


def _whitening_of(layout: RowLayout, moment: Moment, damping: Damping) -> Whitening:
    return whitening_of(layout, run_in_compute_thread(moment.finalize), damping)
