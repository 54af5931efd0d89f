"""The tasks of a chain: segments of draws, on a grid that a longer chain continues, and the log that holds them."""

from dataclasses import dataclass

from infra.commits import CommitLog
from infra.storage.storage import Storage
from pipeline.config.estimators import LossTrace
from pipeline.planning.plan import SNAPSHOT_BYTES, ModelPlan
from pipeline.root.logs import rows_log

TASK_DRAWS = 500


@dataclass(frozen=True)
class Segment:
    """Draws [start, stop) of a chain; the first draw is 0."""

    start: int
    stop: int

    @property
    def name(self) -> str:
        """Its name in the commit log of its chain."""
        return f"{self.start:012d}-{self.stop:012d}"

    def keeps(self, settings: LossTrace) -> bool:
        """Whether any of its draws is kept."""
        return any(number in settings.kept for number in range(self.start, self.stop))


@dataclass(frozen=True)
class ChainTask:
    """Consecutive segments of a chain, which continues from the segment `before` them; None at its beginning."""

    model: str
    chain: int
    segments: tuple[Segment, ...]
    before: Segment | None = None

    @property
    def name(self) -> str:
        """Its name in its chain's commit log: it is done when its last segment is."""
        return self.segments[-1].name


def segments(plan: ModelPlan, settings: LossTrace) -> list[Segment]:
    """A chain's draws, cut at places that do not depend on their number.

    What a segment keeps fits in memory, and a segment that is killed loses little.
    """
    length = segment_length(plan, settings)
    return [Segment(start, min(start + length, settings.draws)) for start in range(0, settings.draws, length)]


def segment_length(plan: ModelPlan, settings: LossTrace) -> int:
    """Draws of a whole segment."""
    return min(TASK_DRAWS, max(1, SNAPSHOT_BYTES // (4 * plan.recipe.weights)) * settings.thin)


def chain_tasks(plan: ModelPlan, settings: LossTrace, chain: int) -> list[ChainTask]:
    """The tasks of a chain, in order, each of enough segments that loading takes little of its time."""
    own, together = segments(plan, settings), max(1, TASK_DRAWS // segment_length(plan, settings))
    return [
        ChainTask(plan.name, chain, tuple(own[first : first + together]), own[first - 1] if first else None)
        for first in range(0, len(own), together)
    ]


def chain_log(storage: Storage, plan: ModelPlan, chain: int) -> CommitLog:
    """Where a chain's segments are committed: among the sources of a row key."""
    return rows_log(storage, plan.name, plan.recipe.snapshots_key, f"chain-{chain:06d}")
