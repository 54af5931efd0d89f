"""The curvature once more, by Dask, from the rows that a root stores: no model is loaded, and of the audited data nothing is read.

Each task sums the moment of one part of the rows, block by block; FAN_IN sums at a time are merged, then FAN_IN of those, and so on. So
memory holds a few moments and blocks a thread, however many rows there are. Where it runs is a setting of Dask's own: the threads of
this process; the scheduler of a `distributed.Client`, once there is one; a Ray cluster, under
`dask.config.set(scheduler=ray.util.dask.ray_dask_get)`. The last two need the extra `mad[dask]`: Ray's scheduler of Dask graphs imports
pandas. Workers elsewhere need mad, and reach the root as this process does.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from dask.delayed import Delayed, delayed
from numpy.typing import NDArray

from infra.computing import compute
from infra.storage import Storage
from madcore import BlockMoment, Damping, RowLayout, Whitening
from pipeline.artifacts.curvature import read_trusted
from pipeline.artifacts.rows import RowsPart, StoredBlock, open_rows, read_stored, stored_layout
from pipeline.curvature import SPLIT, damping_of, whitening_of
from pipeline.errors import RootError
from pipeline.memory import SCORING_BLOCK
from pipeline.schema import CurvatureSection
from pipeline.stored_rows import Summary, receipts, stored_parts

FAN_IN = 4
REBUILT = ("block_moment", "ggn", "fisher")


@dataclass(frozen=True)
class FittedPart:
    """A part of the rows that a curvature is fitted on, and which of its samples count, (samples,) bool; None is all of them."""

    part: RowsPart
    chosen: NDArray[np.bool_] | None = None


@dataclass(frozen=True)
class StoredCurvature:
    """A run's curvature to be rebuilt from stored rows. Nothing is computed before `.compute()` is called, of either.

    `moment` computes to the `madcore.BlockMoment` of the rows that the run's curvature was fitted on, `whitening` to the `madcore.Whitening`
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
            RootError: the run's curvature is not made of moments of stored rows, or rows are missing, because tasks failed.
        """
        section, name = _section(summary), str(summary["model"])
        fitted = _fitted_parts(storage, summary, section)
        layout, used = stored_layout(open_rows(storage, fitted[0].part)), damping or damping_of(section)
        add_up = delayed(_moment_of)
        moment = _tree([add_up(storage.url, part, layout) for part in fitted])
        return cls(layout, used, moment, delayed(_whitening_of)(name, moment, used))


def _section(summary: Summary) -> CurvatureSection:
    settings = summary["settings"]
    section = CurvatureSection.model_validate(settings["curvature"] if isinstance(settings, dict) else {})
    if section.kind not in REBUILT:
        why = "it has none" if section.kind == "identity" else "its factors are no moments of rows"
        raise RootError(
            f"model {summary['model']}: the curvature of its latest run is {section.kind}, which cannot be rebuilt from stored rows, because {why};"
            f" kinds that can: {', '.join(REBUILT)}"
        )
    return section


def _fitted_parts(storage: Storage, summary: Summary, section: CurvatureSection) -> list[FittedPart]:
    """As the pipeline's own: of the trusted samples the reference part, and where it is transductive the calibration part and all audited ones too."""
    apart = section.kind != "block_moment"
    whom = {"reference", "calibration"} if section.transductive else {"reference"}
    split = next(log.attempt_folder(receipt) for log, receipt in receipts(storage, summary, "curvature") if receipt.task == SPLIT)
    counts = np.array([part in whom for part in read_trusted(storage, split).parts])
    fitted, position = list[FittedPart](), 0
    for part in stored_parts(storage, summary, "trusted", apart):
        chosen = counts[position : (position := position + part.stop - part.start)]
        if chosen.any():
            fitted.append(FittedPart(part, chosen))
    return fitted + [FittedPart(part) for part in (stored_parts(storage, summary, "audited", apart) if section.transductive else ())]


def _moment_of(url: str, fitted: FittedPart, layout: RowLayout) -> BlockMoment:
    """The moment of a part's rows that count, computed block by block in the process's computing thread."""
    storage, moment, position = Storage(url), BlockMoment.zero(layout), 0
    samples = fitted.part.stop - fitted.part.start
    chosen = torch.ones(samples, dtype=torch.bool) if fitted.chosen is None else torch.from_numpy(fitted.chosen.copy())
    draws = int(open_rows(storage, fitted.part).shape[0]) // samples
    for block in read_stored(storage, fitted.part, layout, SCORING_BLOCK):
        places = torch.arange(position, position + len(block.stored)) // draws
        position += len(block.stored)
        moment = compute(_added, moment, block, block.samples.ok & chosen[places])
    return moment


def _added(moment: BlockMoment, block: StoredBlock, counts: torch.Tensor) -> BlockMoment:
    return moment.update(block.rows[counts])


def _tree(moments: Sequence[Delayed]) -> Delayed:
    """The sum of moments, FAN_IN at a time."""
    merge, level = delayed(_merged), list(moments)
    while len(level) > 1:
        level = [merge(level[start : start + FAN_IN]) for start in range(0, len(level), FAN_IN)]
    return level[0]


def _merged(moments: Sequence[BlockMoment]) -> BlockMoment:
    total = moments[0]
    for moment in moments[1:]:
        total = compute(total.merge, moment)
    return total


def _whitening_of(model: str, moment: BlockMoment, damping: Damping) -> Whitening:
    return whitening_of(model, moment.layout, compute(moment.finalize), damping)
