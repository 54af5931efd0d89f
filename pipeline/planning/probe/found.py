"""What a probe of a model found: its layers, its classes, and the sizes of a sample."""

from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from madcore import Coverage, RerunCost, SideLayout
from madcore.coverage.shares import ParameterShare
from pipeline.inputs.model_inputs import ModelInputs


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


class Probe(BaseModel):
    """What a probe found: all that a plan needs of a loaded model. `classes` is 0 where outputs have none.

    `class_names`: of its outputs, in order, () where its own files name none. `digest`: of the model, its weights read.
    `code`: digests of further modules that its code comes from, by name. `source`: the code of an architecture that the
    config names by file; the document is without it. `fallback`: costs of the covered layers whose modules run again
    for each sample. `shares`: what each parameter of the chosen modules is of them all. `weights`: how many the model
    has. `undone`: how they were taken out of wrappers and prefixes. `reads_token_types`: whether zeros as token types
    change its logits. `warnings`: what a reader of the plan and the report should know. `from_shapes`: why it follows
    from shapes alone, "" where the model was loaded; `weightless`: whether that is for want of weights.
    """

    model_config = ConfigDict(frozen=True)
    format: Literal[1] = 1
    digest: str
    code: dict[str, str]
    source: bytes | None = Field(default=None, exclude=True, repr=False)
    coverage: Coverage
    sides: SideLayout
    fallback: dict[str, RerunCost]
    shares: dict[str, ParameterShare]
    classes: int
    class_names: tuple[str, ...] = ()
    inputs: ModelInputs
    model_bytes: int
    weights: int
    sizes: SampleSizes
    undone: str = ""
    reads_token_types: bool = False
    warnings: tuple[str, ...] = ()
    from_shapes: str = ""
    weightless: bool = False
