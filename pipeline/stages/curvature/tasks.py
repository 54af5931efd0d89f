"""The tasks of the curvature stage: the ranges that are summed, and the key of their results."""

from dataclasses import dataclass, replace

from pydantic import JsonValue

from pipeline.artifacts.parts import RowsPart
from pipeline.data.classes.names import described_labels
from pipeline.keys import key_of
from pipeline.planning.plan import ModelPlan
from pipeline.stages.scoring.scorer import SCORER_FORMAT

CURVATURE_FORMAT = 3

PARTS_PER_SUM = 16


@dataclass(frozen=True)
class CurvatureTask:
    """All trusted parts, in task order, the audited ones of a transductive curvature, and what earlier tasks made.

    `rows_per_sample`: how many rows a sample has in these parts. `split`: the folder of the split. `first`, `last`:
    the range of parts, or of `moments`, that are added up. `moments`: folders of sums of a lower level; without any,
    the parts are read. `basis`: the folder of the moment along whose eigenvectors moments are taken, "" for plain
    moments. `factor`: the folder that the references need, "" for identity.
    """

    model: str
    name: str
    key: str
    parts: tuple[RowsPart, ...]
    audited: tuple[RowsPart, ...] = ()
    split: str = ""
    first: int = 0
    last: int = 0
    moments: tuple[str, ...] = ()
    basis: str = ""
    factor: str = ""
    rows_per_sample: int = 1

    @property
    def length(self) -> int:
        """How many parts the curvature is made of."""
        return len(self.parts) + len(self.audited)

    def of_range(self, name: str, first: int, last: int) -> "CurvatureTask":
        """The task that adds up a range; of the audited parts, which may be many, it carries its own only."""
        if self.moments:
            return replace(self, name=name, first=first, last=last)
        trusted = len(self.parts)
        own = self.audited[max(0, first - trusted) : max(0, last - trusted)]
        return replace(self, name=name, first=min(first, trusted), last=min(last, trusted) + len(own), audited=own)


def transductive_parts(plan: ModelPlan, audited: tuple[RowsPart, ...]) -> tuple[RowsPart, ...]:
    """The audited parts that the curvature is made of: those with rows if it is transductive, else none."""
    return tuple(part for part in audited if not part.failure) if plan.config.curvature.transductive else ()


def curvature_key(
    plan: ModelPlan,
    trusted: tuple[RowsPart, ...],
    audited: tuple[RowsPart, ...],
    curvature_rows: tuple[RowsPart, ...] = (),
) -> str:
    """The key of a model's curvature.

    It is made of the contents of the trusted rows and of the others that the curvature is made of, the rank they are
    read at, the split, and the settings.

    Args:
        plan: the model's.
        trusted: the trusted samples' own rows.
        audited: the audited rows that a transductive curvature is made of.
        curvature_rows: the trusted samples' rows that the curvature is made of, where those are not their own.
    """
    of_trusted, of_audited = _contents(trusted), _contents(audited)
    dropped: list[JsonValue] = [{"dropped": [*plan.dropped]}] if plan.dropped else []
    rows: JsonValue = [of_trusted, of_audited] if audited else of_trusted
    rows = {"own": rows, "fitted": _contents(curvature_rows)} if curvature_rows else rows
    return key_of(
        format=CURVATURE_FORMAT,
        rows=rows,
        labels={
            source.key: described_labels(source, plan.class_names) for source in plan.trusted if "label" in source.truth
        },
        layers=list(plan.layout.names),
        curvature=plan.config.curvature.model_dump(mode="json"),
        **({"rank": plan.reprojection.rank} if plan.reprojection is not None else {}),
        split=[
            plan.config.calibration.fraction,
            plan.config.calibration.seed,
            *(["screen"] if plan.config.calibration.screen else []),
            *dropped,
        ],
    )


def _contents(parts: tuple[RowsPart, ...]) -> list[JsonValue]:
    return [[part.source_key, part.start, part.content] for part in parts]


def references_name(plan: ModelPlan) -> str:
    """The name of the `references` task: it depends on the score too."""
    key = key_of(format=SCORER_FORMAT, score=plan.config.score.model_dump(mode="json"), classes=plan.classes)
    return f"references-{key}"


def moment_ranges(parts: int) -> list[tuple[int, int]]:
    """The ranges that `moment` tasks of one level add up.

    None where PARTS_PER_SUM or fewer are left, which `factor` adds up itself.
    """
    if parts <= PARTS_PER_SUM:
        return []
    return [(first, min(first + PARTS_PER_SUM, parts)) for first in range(0, parts, PARTS_PER_SUM)]
