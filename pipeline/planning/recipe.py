"""What the rows of a model follow from, stated once: a plan holds it, a run records it, and a later run reads it back.

With it, stored rows can be used again without the model and without any data file (see `pipeline.operations.rescore`).
"""

import operator
from collections.abc import Collection
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from madcore import Layer, Projection, RerunCost, SideLayout
from madcore.coverage.shares import ParameterShare
from pipeline.config.schema import ModelConfig
from pipeline.data.sources import Source
from pipeline.inputs.batches import BATCH_MULTIPLE
from pipeline.inputs.model_inputs import ModelInputs

ROWS_FORMAT = 2

# What each format of rows changed: why rows of the one before are computed again.
ROWS_CHANGED = {
    2: "images and columns of tokens are now read as the models' own loaders read them, "
    "samples without a gradient are recognised, and a model's key holds the function of its architecture"
}


def rules_changed(rows_format: int) -> str:
    """How the rules by which samples become rows changed since this format; "" where they did not."""
    return "; ".join(change for number, change in ROWS_CHANGED.items() if rows_format < number)


class RowRecipe(BaseModel):
    """How the rows of a model are made; recorded in `runs/RUN/_run.json` as the model's `rows`.

    `rows_format`: the version of the rules by which samples become rows; early versions recorded none, and had 1.
    `patterns`: those that chose the layers, none for loss traces, whose rows have no layers. `snapshots_key`: the key
    of the weights that loss traces are taken at, "" without them. `layers`, `sides`: the layers, and the layout of
    their rows and of their sides. `fallback`: costs of the layers whose modules run again for each sample.
    `not_covered`: why each other chosen parameter has no row. `classes`: 0 for a language model, whose outputs have
    none. `weights`: how many numbers the model has. `warnings`: what planning found that may be a mistake. `shares`:
    what each parameter of the chosen modules is of them all; none of loss traces, and none in what an earlier version
    of mad recorded. `class_names`: of the outputs in order, none where nobody names the classes.
    """

    model_config = ConfigDict(frozen=True)
    format: Literal[1] = 1
    rows_format: int = 1
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
    warnings: tuple[str, ...] = ()
    shares: dict[str, ParameterShare] = Field(default_factory=dict)
    class_names: Annotated[tuple[str, ...], Field(exclude_if=operator.not_)] = ()

    def layers_named(self, names: Collection[str]) -> tuple[Layer, ...]:
        """Those of the layers that have one of these names, in order."""
        return tuple(layer for layer in self.layers if layer.name in names)


@dataclass(frozen=True)
class EarlierRun:
    """An earlier run whose rows are used.

    `labels`, `truth`: the folders that hold the labels of its trusted samples and the truth of its audited ones; ""
    where an earlier version kept neither, so that data files have to be read for them. `report`: the folder of its
    report.
    """

    run_id: str
    labels: str
    truth: str
    report: str


def count_labels(model: ModelConfig, classes: int) -> int:
    """Labels that each sample has a curvature row for (see `madcore.extraction.likelihood`); 0 without such rows."""
    return {"ggn": classes, "fisher": 1, "kfac": 1, "ekfac": 1}.get(model.curvature.kind, 0)


def samples_of(rows: int, labels: int) -> int:
    """How many samples have so many rows, `labels` each: a multiple of BATCH_MULTIPLE, which batches are padded to."""
    return rows if labels <= 1 else max(1, rows // (labels * BATCH_MULTIPLE)) * BATCH_MULTIPLE


def projection_of(model: ModelConfig) -> Projection:
    """The projection that a model's config asks for."""
    asked = model.gradient.projection
    return Projection(asked.rank, asked.seed, asked.kind, asked.sketch)
