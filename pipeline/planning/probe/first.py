"""The first samples of a model with outputs (n, D), on which it is probed."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from madcore import Inputs, Measured
from pipeline.inputs.batches import joined
from pipeline.inputs.model_inputs import ModelInputs
from pipeline.planning.probe.found import SampleSizes
from pipeline.planning.probe.rows import ROOM, RowProbe


@dataclass(frozen=True)
class FirstSamples:
    """The first readable trusted samples of a model: how such samples are read, and the inputs of each alone.

    `together`: the inputs of several of them as one batch. `sized`: how such samples are read and what one takes, by
    what the rows are like, how samples are measured, and the bytes of one's outputs. `warnings`: about these samples.
    """

    samples: Sequence[Inputs]
    together: Callable[[Sequence[Inputs]], Inputs]
    sized: Callable[[RowProbe, Callable[[Sequence[Inputs]], Measured], int], tuple[ModelInputs, SampleSizes]]
    warnings: tuple[str, ...] = ()

    @classmethod
    def of_one_size(cls, inputs: ModelInputs, samples: Sequence[Inputs]) -> "FirstSamples":
        """Samples that are all of one size."""

        def sized(
            rows: RowProbe, measured: Callable[[Sequence[Inputs]], Measured], output_bytes: int
        ) -> tuple[ModelInputs, SampleSizes]:
            return inputs, vector_sizes(rows, measured(samples[:1]), output_bytes)

        return cls(samples, joined, sized)


def vector_sizes(rows: RowProbe, one: Measured, output_bytes: int) -> SampleSizes:
    """What samples take of which this is one, and whose outputs have so many bytes."""
    tensors = [one.inputs] if isinstance(one.inputs, Tensor) else [*one.inputs.values()]
    input_bytes = sum(tensor.nbytes for tensor in tensors)
    return SampleSizes(
        sample_bytes=round(ROOM * (rows.bytes_of(one) + input_bytes)),
        input_bytes=input_bytes,
        retained_bytes_per_sample=output_bytes + 2 * input_bytes,
        samples_per_pass=rows.samples_per_pass(one),
    )
