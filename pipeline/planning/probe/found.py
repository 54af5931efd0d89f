"""What a probe of a model found: its layers, its classes, and the sizes of a sample."""

from collections.abc import Mapping
from dataclasses import dataclass

from madcore import Coverage, RerunCost, SideLayout
from madcore.coverage.shares import ParameterShare
from pipeline.data.batches import ImageInputs, TextInputs


@dataclass(frozen=True)
class SampleSizes:
    """Bytes of one sample, and how many samples go through the model together. Of texts, those of the longest one.

    `sample_bytes`: its whole pass. `input_bytes`: its input. `retained_bytes_per_sample`: its input, twice, and its
    logits.
    """

    sample_bytes: int
    input_bytes: int
    retained_bytes_per_sample: int
    samples_per_pass: int


@dataclass(frozen=True)
class Probe:
    """What a probe found. `classes` is 0 where outputs have none.

    `fallback`: costs of the covered layers whose modules run again for each sample. `shares`: what each parameter of
    the chosen modules is of them all. `weights`: how many the model has. `undone`: how they were taken out of wrappers
    and prefixes. `reads_token_types`: whether zeros as token types change its logits. `warnings`: what a reader of the
    plan and the report should know.
    """

    digest: str
    source: bytes | None
    coverage: Coverage
    sides: SideLayout
    fallback: Mapping[str, RerunCost]
    shares: Mapping[str, ParameterShare]
    classes: int
    inputs: ImageInputs | TextInputs
    model_bytes: int
    weights: int
    sizes: SampleSizes
    undone: str = ""
    reads_token_types: bool = False
    warnings: tuple[str, ...] = ()
