"""Inputs of models of images that say themselves how an image becomes an input."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from madcore import Measured
from pipeline.config.schema import ModelConfig
from pipeline.data.ids import ids_of
from pipeline.data.images.column import encoded_images
from pipeline.data.images.decoding import UnreadableImage, open_image
from pipeline.data.images.reading import first_readable
from pipeline.data.sources import Source
from pipeline.inputs.batches import Group, SampleBatch, align, readable
from pipeline.inputs.recipes.crop import CropRecipe
from pipeline.inputs.recipes.library import LibraryRecipe
from pipeline.tasks.registry import VECTOR_TASKS

Recipe = CropRecipe | LibraryRecipe

Shape = tuple[int, int, int]


@dataclass(frozen=True)
class ProcessedImages:
    """The inputs of a model of images by its own recipe, all of the shape (channels, height, width)."""

    recipe: Annotated[Recipe, Field(discriminator="kind")]
    shape: Shape

    def read(self, model: ModelConfig, source: Source, rows: range, batch_size: int) -> Iterator[SampleBatch]:
        """Rows of a source, `batch_size` at a time; an image that cannot be read is in its batch with the reason."""
        ids, reasons, inputs = list[str](), list[str](), list[NDArray[np.float32]]()
        columns = source.columns
        for batch in source.read(rows.start, rows.stop, [columns.id, str(columns.image)], batch_size):
            names = ids_of(batch.column(columns.id))
            for name, image in zip(names, encoded_images(batch.column(columns.image)), strict=True):
                ids.append(name or "")
                try:
                    if name is None:
                        raise UnreadableImage("the id is null")
                    inputs.append(_made(self.recipe, image.embedded(), self.shape))
                    reasons.append("")
                except UnreadableImage as error:
                    reasons.append(str(error))
                if len(ids) == batch_size:
                    yield _batch(model, ids, reasons, inputs)
                    ids, reasons, inputs = [], [], []
        if ids:
            yield _batch(model, ids, reasons, inputs)


def _batch(
    model: ModelConfig, ids: Sequence[str], reasons: Sequence[str], inputs: Sequence[NDArray[np.float32]]
) -> SampleBatch:
    task = VECTOR_TASKS[model.task]
    groups: tuple[Group, ...] = ()
    if inputs:
        measured = Measured(align(torch.from_numpy(np.stack(inputs))), task.measurement(model))
        groups = (Group(readable(reasons), measured, task.predict),)
    return SampleBatch(tuple(ids), tuple(reasons), groups)


def first_processed(sources: Sequence[Source], wanted: int, recipe: Recipe) -> NDArray[np.float32]:
    """Inputs (up to wanted, channels, height, width) of the first readable images of the first file.

    Raises:
        SourceError: the first rows hold no readable image, or the recipe makes no input of one.
    """

    def made(data: bytes | None, found: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
        shape: Shape | None = (found[0].shape[0], found[0].shape[1], found[0].shape[2]) if found else None
        return _made(recipe, data, shape)

    found = first_readable(sources[0], wanted, made)
    return np.stack(found)


def _made(recipe: Recipe, data: bytes | None, shape: Shape | None) -> NDArray[np.float32]:
    """The input of an encoded image.

    Raises:
        UnreadableImage: it cannot be decoded, or the recipe makes an input of another shape of it.
    """
    image = open_image(data, recipe.channels)
    try:
        made = recipe.make(image)
    except (ValueError, ArithmeticError) as error:
        raise UnreadableImage(
            f"the model's own preprocessing fails on it ({' '.join(str(error).split())[:200]})"
        ) from error
    if shape is not None and made.shape != shape:
        raise UnreadableImage(
            f"the model's own preprocessing makes the shape {made.shape} of it, and {shape} of the first trusted one; "
            "set data.preprocess"
        )
    return made
