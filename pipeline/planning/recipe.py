"""What a run records of a model so that its rows can be used again without the model or any data file (see `pipeline.operations.rescore`)."""

from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict

from madcore import Layer, RerunCost, SideLayout
from pipeline.data.batches import ModelInputs
from pipeline.data.sources import Source


class RowRecipe(BaseModel):
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
class EarlierRun:
    """An earlier run whose rows are used.

    `labels`, `truth`: the folders that hold the labels of its trusted samples and the truth of its audited ones, "" where data files
    have to be read for them, because an earlier version kept neither. `report`: the folder of its report.
    """

    run_id: str
    rows: RowRecipe
    labels: str
    truth: str
    report: str
