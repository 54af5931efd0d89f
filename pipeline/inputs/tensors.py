"""Inputs of any model: a tensor for each of its arguments, from columns of numbers or of lists of them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch

from madcore import Measured
from pipeline.config.schema import ModelConfig
from pipeline.data.sources import Source
from pipeline.data.tensors import TensorArgument, read_tensors
from pipeline.inputs.batches import Group, SampleBatch, align, readable
from pipeline.tasks.registry import VECTOR_TASKS


@dataclass(frozen=True)
class TensorInputs:
    """The inputs of a model of tensors, by the names of its arguments."""

    arguments: Mapping[str, TensorArgument]

    def read(self, model: ModelConfig, source: Source, rows: range, batch_size: int) -> Iterator[SampleBatch]:
        """Rows of a source, `batch_size` at a time."""
        task = VECTOR_TASKS[model.task]
        for batch in read_tensors(source, rows.start, rows.stop, self.arguments, batch_size):
            places = readable(batch.unreadable)
            inputs = {name: align(torch.from_numpy(array)) for name, array in batch.arrays.items() if len(places)}
            groups = (Group(places, Measured(inputs, task.measurement(model)), task.predict),) if inputs else ()
            yield SampleBatch(batch.ids, batch.unreadable, groups)
