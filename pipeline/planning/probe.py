"""What a plan learns from a model and a few trusted samples: its layers, its classes, and the memory of a sample."""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from madcore import (
    Coverage,
    Measured,
    RerunCost,
    RowExtractor,
    RowLayout,
    SideLayout,
    check_layers,
    margin,
    select_layers,
)
from madcore.extraction.forward_check import check_forward_pass
from madcore.extraction.random_sources import NUMPY, RandomSource, mersenne_words
from madcore.extraction.shares import ParameterShare, measure_shares
from madcore.measurements import PART_MULTIPLE, logits_of, run
from pipeline.config.audit_config import AuditConfig
from pipeline.config.samples import CHANNELS
from pipeline.config.schema import ModelConfig
from pipeline.data.batches import TOKEN_MEASUREMENTS, TRACED_AT_ONCE, ImageInputs, TextBytes, TextInputs, token_batch
from pipeline.data.images.reading import first_images, scale_pixels
from pipeline.data.sources import Source
from pipeline.data.texts.reading import first_texts, longest_text
from pipeline.data.texts.rows import Text, TextLimits
from pipeline.errors import SourceError
from pipeline.models.load import LoadedModel, load_model
from pipeline.models.outputs import check_outputs
from pipeline.models.user_code import user_code
from pipeline.planning.checks.causality import check_causal
from pipeline.planning.memory import pass_bytes, step_bytes
from pipeline.planning.recipe import projection_of

CANDIDATES = 16  # trusted samples that layers are checked on


CHECKED_OUTPUTS = 4  # trusted images whose outputs tell whether they are logits


MEASURED_LENGTH = 512  # tokens of the longest text that memory is measured with


ROOM = 1.5  # what allocators and kernels add to the tensors that are counted


PYTHON = RandomSource(
    random.getstate,
    random.setstate,
    {"lowest": (3, (*mersenne_words("lowest"), 0), None), "highest": (3, (*mersenne_words("highest"), 0), None)},
)


Sample = TypeVar("Sample")


Report = Callable[[str], None]


@dataclass(frozen=True)
class Probe:
    """What a probe found. `classes` is 0 where outputs have none.

    `sample_bytes`: one sample's whole pass. `input_bytes`: its input. `retained_bytes_per_sample`: its input, twice,
    and its logits. For texts, these are those of the longest one. `samples_per_pass`: how many go through the model
    together. `fallback`: costs of the covered layers whose modules run again for each sample. `shares`: what each
    parameter of the chosen modules is of them all. `weights`: how many the model has. `undone`: how they were taken out
    of wrappers and prefixes. `lacking`: which of them are not finite. `warnings`: what a reader of the plan and the
    report should know.
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
    sample_bytes: int
    input_bytes: int
    retained_bytes_per_sample: int
    samples_per_pass: int
    undone: str = ""
    lacking: str = ""
    warnings: tuple[str, ...] = ()


def probe(config: AuditConfig, model: ModelConfig, trusted: list[Source], report: Report = lambda _: None) -> Probe:
    """Load a model and check its forward pass, and its layers against autograd; `report` is told what is being done.

    Raises:
        SourceError: the model cannot be loaded, or does not accept the trusted samples.
        ModelError: its outputs are random or mix samples, or none of its layers can be covered.
    """
    report("loading the model")
    loaded = load_model(config, model)
    if loaded.limits is None:
        return _probe_images(loaded, model, trusted, report)
    return _probe_texts(loaded, loaded.limits, model, trusted, report)


def _probe_images(loaded: LoadedModel, model: ModelConfig, trusted: list[Source], report: Report) -> Probe:
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
    _check_finite(loaded, model, logits)
    doubt = check_outputs(model, logits)
    with user_code(f"{model.described}: a forward and backward pass on trusted samples of shape {tuple(inputs.shape)}"):
        one = Measured(inputs[:1], margin)
        rows = _probe_rows(
            loaded.module, model, inputs.split(1), lambda chosen: Measured(torch.cat(list(chosen)), margin), report
        )
        report("measuring the memory of a pass")
        sample_bytes = round(ROOM * (rows.bytes_of(one) + inputs[:1].nbytes))
    return Probe(
        digest=loaded.digest,
        source=loaded.source,
        undone=loaded.undone,
        lacking=loaded.lacking,
        coverage=rows.coverage,
        sides=rows.sides,
        fallback=_fallback(loaded.module, rows.coverage),
        shares=rows.shares,
        classes=int(logits.shape[1]),
        inputs=ImageInputs((int(images.shape[1]), int(images.shape[2]))),
        model_bytes=_bytes_of(loaded.module),
        weights=_weights_of(loaded.module),
        sample_bytes=sample_bytes,
        input_bytes=inputs[:1].nbytes,
        retained_bytes_per_sample=logits[:1].nbytes + 2 * inputs[:1].nbytes,
        samples_per_pass=rows.samples_per_pass(one),
        warnings=(doubt,) if doubt else (),
    )


def _check_finite(loaded: LoadedModel, model: ModelConfig, logits: Tensor) -> None:
    """Refuses a model of whose outputs none is finite, where its weights are the reason."""
    if loaded.lacking and not torch.isfinite(logits).any():
        raise SourceError(f"{model.described}: no output on a trusted sample is finite: {loaded.lacking}")


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


def _probe_texts(
    loaded: LoadedModel, limits: TextLimits, model: ModelConfig, trusted: list[Source], report: Report = lambda _: None
) -> Probe:
    texts = first_texts(trusted, CANDIDATES, limits)
    longest = limits.padded(longest_text(trusted, limits))
    forward = f"{model.described}: a forward pass on a trusted text of {len(texts[0].ids):,} tokens"
    with user_code(forward), torch.no_grad():
        first = _measured(texts[:1], model)
        logits = logits_of(run(loaded.module, first.inputs))
        first.measurement(logits)
    _check_finite(loaded, model, logits)
    with user_code(f"{model.described}: a forward and backward pass on trusted texts of at most {longest:,} tokens"):
        rows = _probe_rows(loaded.module, model, texts, lambda chosen: _measured(chosen, model), report)
        check_causal(loaded.module, torch.from_numpy(texts[0].ids), limits.vocabulary, model.described)
        report("measuring the memory of a pass")
        length = min(longest, MEASURED_LENGTH)
        shorter, longer = (_filler(texts[0], tokens, model) for tokens in (max(2, length // 2), length))
        memory = TextBytes.fitted(_text_bytes(rows, shorter), _text_bytes(rows, longer))
        samples_per_pass = rows.samples_per_pass(longer)
        input_bytes = sum(tensor.nbytes for tensor in longer.inputs.values()) * longest // length
    return Probe(
        digest=loaded.digest,
        source=loaded.source,
        undone=loaded.undone,
        lacking=loaded.lacking,
        coverage=rows.coverage,
        sides=rows.sides,
        fallback=_fallback(loaded.module, rows.coverage),
        shares=rows.shares,
        classes=0,
        inputs=TextInputs(limits, memory, batch_bytes=0),
        model_bytes=_bytes_of(loaded.module),
        weights=_weights_of(loaded.module),
        sample_bytes=memory.of(longest),
        input_bytes=input_bytes,
        retained_bytes_per_sample=logits[0, 0].nbytes * longest + 2 * input_bytes,
        samples_per_pass=max(PART_MULTIPLE, samples_per_pass * length // longest),
    )


def _filler(text: Text, tokens: int, model: ModelConfig) -> Measured:
    """A text repeated to a number of tokens, of which all but the first are the completion."""
    return _measured([Text(text.ids.repeat(-(-tokens // len(text.ids)))[:tokens], np.arange(tokens) > 0)], model)


def _text_bytes(rows: "_RowProbe", text: Measured) -> tuple[int, int]:
    """How many tokens a text has, and the bytes that its pass takes."""
    return next(iter(text.inputs.values())).shape[1], round(ROOM * rows.bytes_of(text))


def _measured(texts: Sequence[Text], model: ModelConfig) -> Measured:
    tokens = token_batch(texts)
    return Measured(tokens.inputs, TOKEN_MEASUREMENTS[model.measurement](tokens))


@dataclass(frozen=True)
class _RowProbe:
    """The layers and sides of rows, the bytes of a batch's pass, and how many samples of its kind fit in one pass.

    `shares`: what each parameter of the chosen modules is of them all.
    """

    coverage: Coverage
    shares: Mapping[str, ParameterShare]
    sides: SideLayout
    bytes_of: Callable[[Measured], int]
    samples_per_pass: Callable[[Measured], int]


def _probe_rows(
    module: nn.Module,
    model: ModelConfig,
    samples: Sequence[Sample],
    together: Callable[[Sequence[Sample]], Measured],
    report: Report,
) -> _RowProbe:
    """Of gradients, those of the covered layers; of loss traces, a number for each kept draw, whatever the model."""
    report("running samples twice, together and alone")
    check_forward_pass(module, samples, together, (NUMPY, PYTHON))
    if model.traced is not None:
        chains = tuple(f"chain {number}" for number in range(model.traced.chains))
        layout = RowLayout(chains, (len(model.traced.kept),) * len(chains))
        sides = SideLayout(layout, (None,) * len(chains))
        return _RowProbe(Coverage((), {}), {}, sides, partial(step_bytes, module), lambda _: TRACED_AT_ONCE)
    selected = select_layers(module, model.gradient.layers, model.gradient.parameters)
    report(f"checking {len(selected.covered)} layers against autograd")
    coverage = check_layers(module, selected, samples, together, projection_of(model))
    shares = measure_shares(module, model.gradient.layers, (together([sample]) for sample in samples))
    extractor = RowExtractor(module, coverage.covered, projection_of(model))
    return _RowProbe(coverage, shares, extractor.side_layout, partial(pass_bytes, extractor), extractor.at_once)


def _fallback(module: nn.Module, coverage: Coverage) -> dict[str, RerunCost]:
    return {layer.name: RerunCost.of(module, layer) for layer in coverage.covered if layer.name in coverage.fallback}


def _weights_of(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters() if parameter.is_floating_point())


def _bytes_of(module: nn.Module) -> int:
    return sum(tensor.nbytes for tensor in module.state_dict().values())
