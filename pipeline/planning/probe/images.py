"""What a plan learns from an image classifier and a few trusted images."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from madcore import Measured, margin
from madcore.measurements import run
from pipeline.config.samples import CHANNELS
from pipeline.config.schema import ModelConfig
from pipeline.data.batches import ImageInputs
from pipeline.data.images.reading import first_images, scale_pixels
from pipeline.data.sources import Source
from pipeline.errors import SourceError
from pipeline.models.interface import LoadedModel
from pipeline.models.outputs import check_outputs
from pipeline.models.user_code import user_code
from pipeline.planning.probe.found import Probe, SampleSizes
from pipeline.planning.probe.rows import CANDIDATES, ROOM, Report, RowProbe, check_finite, findings, probe_rows

CHECKED_OUTPUTS = 4  # trusted images whose outputs tell whether they are logits


def probe_images(loaded: LoadedModel, model: ModelConfig, trusted: Sequence[Source], report: Report) -> Probe:
    """Probe an image classifier.

    Raises:
        SourceError: it does not accept the trusted images, or returns something else than their logits.
        ModelError: its outputs are random or mix samples, or none of its layers can be covered.
    """
    images = first_images(trusted, CANDIDATES, model.data.preprocess)
    inputs = torch.from_numpy(scale_pixels(images, model.data.preprocess))
    forward = f"{model.described}: a forward pass on a trusted sample of shape {tuple(inputs[:1].shape)}"
    with user_code(forward + _channels_asked(loaded.module, inputs)), torch.no_grad():
        outputs = run(loaded.module, inputs[:CHECKED_OUTPUTS])
    logits = getattr(outputs, "logits", outputs)
    if not isinstance(logits, Tensor) or logits.ndim != 2:
        raise SourceError(
            f"{model.described}: expected logits (samples, classes) from a forward pass, got {_returned(outputs)}; "
            "return them as a tensor, or as the attribute `logits` of an object"
        )
    check_finite(loaded, model, logits)
    doubt = check_outputs(model, logits)
    with user_code(f"{model.described}: a forward and backward pass on trusted samples of shape {tuple(inputs.shape)}"):
        one = Measured(inputs[:1], margin)
        rows = probe_rows(
            loaded.module, model, inputs.split(1), lambda chosen: Measured(torch.cat(list(chosen)), margin), report
        )
        report("measuring the memory of a pass")
        sizes = image_sizes(rows, one, logits[:1].nbytes)
    size = ImageInputs((int(images.shape[1]), int(images.shape[2])))
    found = findings(loaded, rows, size, sizes, int(logits.shape[1]))
    return found.model_copy(update={"warnings": (doubt, *found.warnings)}) if doubt else found


def image_sizes(rows: RowProbe, one: Measured, logit_bytes: int) -> SampleSizes:
    """What images take of which this is one, and whose logits have so many bytes."""
    assert isinstance(one.inputs, Tensor)
    input_bytes = one.inputs.nbytes
    return SampleSizes(
        sample_bytes=round(ROOM * (rows.bytes_of(one) + input_bytes)),
        input_bytes=input_bytes,
        retained_bytes_per_sample=logit_bytes + 2 * input_bytes,
        samples_per_pass=rows.samples_per_pass(one),
    )


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


def _channels_asked(module: nn.Module, inputs_nchw: Tensor) -> str:
    """What to add to a failure where a model's first convolution is for images of other channels."""
    first = next((one for one in module.modules() if isinstance(one, nn.Conv2d)), None)
    taken, given = CHANNELS.get(first.in_channels) if first is not None else None, CHANNELS[inputs_nchw.shape[1]]
    if first is None or taken is None or taken == given:
        return ""
    numbers = "1 number" if first.in_channels == 1 else f"{first.in_channels} numbers"
    return (
        f" (its first convolution is for {taken} images, and data.preprocess makes {given} ones: "
        f"give mean and std {numbers} each)"
    )
