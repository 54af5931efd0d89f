"""All kinds of a model's inputs, as a plan holds one of them."""

from pipeline.inputs.images import ImageInputs
from pipeline.inputs.processed import ProcessedImages
from pipeline.inputs.sequences import SequenceInputs
from pipeline.inputs.tensors import TensorInputs
from pipeline.inputs.tokens import TextInputs

ModelInputs = ImageInputs | ProcessedImages | SequenceInputs | TextInputs | TensorInputs
