"""What a run records of a model so that its rows can be used again without the model or any data file (see `pipeline.rescore`)."""

from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict

from infra.commits import Receipt
from madcore import Layer, RerunCost, SideLayout
from pipeline.errors import StageError
from pipeline.inputs import ModelInputs
from pipeline.sources.datasets import Source


class StoredRows(BaseModel):
    """How stored rows came about: their layers, as `patterns` chose them, their sources, and what else a plan says of them (see `ModelPlan`)."""

    model_config = ConfigDict(frozen=True)
    format: Literal[1] = 1
    patterns: tuple[str, ...]
    snapshots_key: str
    layers: tuple[Layer, ...]
    sides: SideLayout
    fallback: dict[str, RerunCost]
    not_covered: dict[str, str]
    classes: int
    inputs: ModelInputs
    trusted: tuple[Source, ...]
    audited: tuple[Source, ...]
    sampling: tuple[Source, ...]
    weights: int
    rows_per_task: int


@dataclass(frozen=True)
class StoredRun:
    """An earlier run whose rows are used.

    `labels`, `truth`: the folders that hold the labels of its trusted samples and the truth of its audited ones, "" where data files
    have to be read for them, because an earlier version kept neither. `report`: the folder of its report.
    """

    run_id: str
    rows: StoredRows
    labels: str
    truth: str
    report: str


class AbsentRows:
    """The worker of rows that are used as they are stored: none is computed."""

    def __call__(self, task: object) -> Receipt:
        """Refuses.

        Raises:
            StageError: always.
        """
        raise StageError("these rows are not stored, and `mad rescore` computes none; `mad run` does, with the model and the data at hand")
