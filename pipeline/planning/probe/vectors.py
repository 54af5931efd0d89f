"""What a plan learns from a model with outputs (n, D), and a few trusted samples: images, or tensors."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from madcore import Inputs, Measured
from madcore.measurements import run
from pipeline.config.samples import CHANNELS
from pipeline.config.schema import ModelConfig
from pipeline.data.images.reading import first_images, scale_pixels
from pipeline.data.sources import Source
from pipeline.data.tensors import first_tensors
from pipeline.errors import SourceError
from pipeline.inputs.images import ImageInputs
from pipeline.inputs.processed import ProcessedImages, Recipe, first_processed
from pipeline.inputs.tensors import TensorInputs
from pipeline.models.interface import LoadedModel, SequenceFacts
from pipeline.models.outputs import check_outputs
from pipeline.models.user_code import user_code
from pipeline.planning.probe.first import FirstSamples
from pipeline.planning.probe.found import Probe
from pipeline.planning.probe.rows import CANDIDATES, Report, check_finite, findings, probe_rows
from pipeline.planning.probe.sequences import first_of_sequences
from pipeline.tasks.registry import VECTOR_TASKS

COLUMNS_OF = {
    "texts": "is a text classifier; name the column of its texts, data.columns.text, or of its tokens, input_ids",
    "audio": "is an audio classifier; name the columns of its inputs, such as data.columns.inputs: {input_values: x}",
}

CHECKED_OUTPUTS = 4  # trusted samples whose outputs tell whether they are logits


def first_samples(loaded: LoadedModel, model: ModelConfig, trusted: Sequence[Source], wanted: int) -> FirstSamples:
    """Read them, up to as many as wanted.

    Raises:
        SourceError: the first rows hold none, or nothing says how an image becomes an input.
    """
    if model.data.columns.inputs is not None:
        arguments, arrays = first_tensors(trusted, model.data.columns.inputs, wanted)
        tensors = {name: torch.from_numpy(array).split(1) for name, array in arrays.items()}
        samples = [dict(zip(tensors, each, strict=True)) for each in zip(*tensors.values(), strict=True)]
        return FirstSamples.of_one_size(TensorInputs(arguments), samples)
    if model.samples == "sequences":
        return _sequences(loaded.known.sequences, model, trusted, wanted)
    if loaded.known.inputs not in ("", "images"):
        raise SourceError(f"{model.described}: {COLUMNS_OF[loaded.known.inputs]}")
    if not model.data.preprocesses and loaded.known.inputs == "images":
        return _processed(loaded.known.recipe, model, trusted, wanted)
    images = first_images(trusted, wanted, model.data.preprocess)
    size = ImageInputs((int(images.shape[1]), int(images.shape[2])))
    return FirstSamples.of_one_size(size, torch.from_numpy(scale_pixels(images, model.data.preprocess)).split(1))


def _by_folder(model: ModelConfig) -> str:
    return "put preprocessor_config.json into the folder, or " if model.huggingface is not None else ""


def _sequences(facts: SequenceFacts | None, model: ModelConfig, trusted: Sequence[Source], wanted: int) -> FirstSamples:
    if facts is None:
        raise SourceError(f"{model.described}: is no text classifier, and data.columns names text or input_ids")
    return first_of_sequences(facts, model, trusted, wanted)


def _processed(recipe: Recipe | None, model: ModelConfig, trusted: Sequence[Source], wanted: int) -> FirstSamples:
    if recipe is None:
        raise SourceError(
            f"{model.described}: nothing there says how an image becomes its input; {_by_folder(model)}set "
            "data.preprocess: {mean: [...], std: [...], size: ...} as the model was trained"
        )
    made = first_processed(trusted, wanted, recipe)
    shape = (int(made.shape[1]), int(made.shape[2]), int(made.shape[3]))
    return FirstSamples.of_one_size(ProcessedImages(recipe, shape), torch.from_numpy(made).split(1))


def probe_vectors(loaded: LoadedModel, model: ModelConfig, trusted: Sequence[Source], report: Report) -> Probe:
    """Probe a model with outputs (n, D).

    Raises:
        SourceError: it does not accept the trusted samples, or returns something else than its task needs.
        ModelError: its outputs are random or mix samples, or none of its layers can be covered.
    """
    first, task = first_samples(loaded, model, trusted, CANDIDATES), VECTOR_TASKS[model.task]
    measurement = task.measurement(model)

    def measured(chosen: Sequence[Inputs]) -> Measured:
        return Measured(first.together(chosen), measurement)

    forward = f"{model.described}: a forward pass on a trusted sample of shape {_shape(first.samples[0])}"
    with user_code(forward + _channels_asked(loaded.module, first.samples[0])), torch.no_grad():
        outputs = run(loaded.module, first.together(first.samples[:CHECKED_OUTPUTS]))
    logits = getattr(outputs, "logits", outputs)
    if not isinstance(logits, Tensor) or not task.accepts(logits):
        raise SourceError(
            f"{model.described}: expected {task.expected} from a forward pass, got {_returned(outputs)}; "
            f"return them as a tensor, or as the attribute `logits` of an object{_which(outputs)}{_other_task(logits)}"
        )
    check_finite(loaded, model, logits)
    doubt = check_outputs(model, logits)
    together = _shape(first.together(first.samples))
    with user_code(f"{model.described}: a forward and backward pass on trusted samples of shape {together}"):
        rows = probe_rows(loaded.module, model, first.samples, measured, report)
        report("measuring the memory of a pass")
        inputs, sizes = first.sized(rows, measured, logits[:1].nbytes)
    found = findings(loaded, rows, inputs, sizes, int(logits.shape[1]) if model.has_classes else 0)
    warnings = [one for one in (doubt, *first.warnings) if one]
    return found.model_copy(update={"warnings": (*warnings, *found.warnings)})


def _shape(inputs: Inputs) -> str:
    if isinstance(inputs, Tensor):
        return str(tuple(inputs.shape))
    return ", ".join(f"{name} {tuple(tensor.shape)} of {str(tensor.dtype)[6:]}" for name, tensor in inputs.items())


def _which(outputs: object) -> str:
    """What to add where there are several outputs."""
    if isinstance(outputs, Mapping) and outputs:
        return f", or name one in the model's entry, such as output: {next(iter(outputs))}"
    return ", or number one in the model's entry, output: 0" if isinstance(outputs, tuple | list) and outputs else ""


def _other_task(outputs: object) -> str:
    """What to add where a classifier has one output."""
    one_each = isinstance(outputs, Tensor) and (outputs.ndim == 1 or outputs.shape[1:] == (1,))
    return "; one output for each sample is of the task binary, or of regression" if one_each else ""


def _returned(outputs: object) -> str:
    """What a forward pass returned, in words."""
    if isinstance(outputs, Tensor):
        return f"shape {tuple(outputs.shape)}"
    if isinstance(outputs, Mapping):
        return f"an object of type {type(outputs).__name__} with {', '.join(map(repr, list(outputs)[:5]))}"
    if isinstance(outputs, tuple | list):
        inside = [str(tuple(each.shape)) if isinstance(each, Tensor) else type(each).__name__ for each in outputs[:5]]
        return f"an object of type {type(outputs).__name__} with {', '.join(inside)}"
    logits = getattr(outputs, "logits", None)
    held = f", whose logits have the shape {tuple(logits.shape)}" if isinstance(logits, Tensor) else ""
    return f"an object of type {type(outputs).__name__}{held}"


def _channels_asked(module: nn.Module, inputs: Inputs) -> str:
    """What to add to a failure where a model's first convolution is for images of other channels."""
    first = next((one for one in module.modules() if isinstance(one, nn.Conv2d)), None)
    if first is None or not isinstance(inputs, Tensor):
        return ""
    taken, given = CHANNELS.get(first.in_channels), CHANNELS[inputs.shape[1]]
    if taken is None or taken == given:
        return ""
    numbers = "1 number" if first.in_channels == 1 else f"{first.in_channels} numbers"
    return (
        f" (its first convolution is for {taken} images, and data.preprocess makes {given} ones: "
        f"give mean and std {numbers} each)"
    )
