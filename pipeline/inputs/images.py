"""Inputs of models of images."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from madcore import Measured
from pipeline.config.schema import ModelConfig
from pipeline.data.images.reading import ImageOptions, read_images, scale_pixels
from pipeline.data.sources import Source
from pipeline.inputs.batches import Group, SampleBatch, align, readable
from pipeline.tasks.registry import VECTOR_TASKS


@dataclass(frozen=True)
class ImageInputs:
    """The inputs of a model of images of one size, (height, width)."""

    size: tuple[int, int]

    def read(self, model: ModelConfig, source: Source, rows: range, batch_size: int) -> Iterator[SampleBatch]:
        """Rows of a source, `batch_size` at a time."""
        preprocess, task = model.data.preprocess, VECTOR_TASKS[model.task]
        options = ImageOptions(batch_size, self.size, preprocess.size is not None, preprocess.channels)
        for batch in read_images(source, rows.start, rows.stop, options):
            places = readable(batch.unreadable)
            inputs = torch.from_numpy(scale_pixels(batch.pixels, preprocess))
            measurement = task.measurement(model)
            groups = (Group(places, Measured(align(inputs), measurement), task.predict),) if len(places) else ()
            yield SampleBatch(batch.ids, batch.unreadable, groups)
