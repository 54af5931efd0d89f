"""What loading a model and running it on a few trusted samples tells a plan: its layers, its classes, and the memory a sample takes."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor, nn

from madcore import (
    Coverage,
    Measured,
    RerunCost,
    RowExtractor,
    RowLayout,
    SideLayout,
    TokenBatch,
    check_layers,
    margin,
    select_layers,
)
from madcore.measurements import PART_MULTIPLE, logits_of, run
from madcore.sampling.langevin import flat_weights
from pipeline.config.audit_config import AuditConfig
from pipeline.config.schema import ModelConfig
from pipeline.data.batches import TOKEN_MEASUREMENTS, TRACED_AT_ONCE, ImageInputs, TextBytes, TextInputs
from pipeline.data.images import first_images, scale_pixels
from pipeline.data.sources import Source
from pipeline.data.texts import Text, TextLimits, first_texts, longest_text
from pipeline.errors import SourceError
from pipeline.models.load import LoadedModel, load_model
from pipeline.models.user_code import user_code
from pipeline.planning.memory import pass_bytes, step_bytes
from pipeline.planning.projection import projection_of

CANDIDATES = 16


MEASURED_LENGTH = 512


Sample = TypeVar("Sample")


ROOM = 1.5


@dataclass(frozen=True)
class Probed:
    """What a probe found. `classes` is 0 where outputs have none.

    `sample_bytes` is one sample's whole pass, `input_bytes` its input, and `retained_bytes_per_sample` its input, twice, and its logits, of texts the
    longest's; `at_once` go through the model together.
    `fallback` has the costs of the covered layers whose modules run again for each sample; `weights` is how many the model has.
    """

    digest: str
    source: bytes | None
    coverage: Coverage
    sides: SideLayout
    fallback: Mapping[str, RerunCost]
    classes: int
    inputs: ImageInputs | TextInputs
    model_bytes: int
    weights: int
    sample_bytes: int
    input_bytes: int
    retained_bytes_per_sample: int
    at_once: int


def probe(config: AuditConfig, model: ModelConfig, trusted: list[Source]) -> Probed:
    """Loads a model and checks its layers against autograd.

    Raises:
        SourceError: it cannot be loaded, or does not take the trusted samples.
        ModelError: no layer of it can be covered.
    """
    loaded = load_model(config, model)
    return (
        _probe_images(loaded, model, trusted)
        if loaded.limits is None
        else _probe_texts(loaded, loaded.limits, model, trusted)
    )


def _probe_images(loaded: LoadedModel, model: ModelConfig, trusted: list[Source]) -> Probed:
    images = first_images(trusted, CANDIDATES, model.data.preprocess)
    inputs = torch.from_numpy(scale_pixels(images, model.data.preprocess))
    with (
        user_code(f"{model.described}: a forward pass on a trusted sample of shape {tuple(inputs[:1].shape)}"),
        torch.no_grad(),
    ):
        outputs = run(loaded.module, inputs)
    if not isinstance(outputs, Tensor) or outputs.ndim != 2:
        found = (
            f"shape {tuple(outputs.shape)}"
            if isinstance(outputs, Tensor)
            else f"an object of type {type(outputs).__name__}"
        )
        raise SourceError(f"{model.described}: expected logits (samples, classes) from a forward pass, got {found}")
    with user_code(f"{model.described}: a forward and backward pass on trusted samples of shape {tuple(inputs.shape)}"):
        one = Measured(inputs[:1], margin)
        rows = _rows(loaded.module, model, inputs.split(1), lambda chosen: Measured(torch.cat(list(chosen)), margin))
        sample_bytes = round(ROOM * (rows.bytes_of(one) + inputs[:1].nbytes))
    return Probed(
        digest=loaded.digest,
        source=loaded.source,
        coverage=rows.coverage,
        sides=rows.sides,
        fallback=_fallback(loaded.module, rows.coverage),
        classes=int(outputs.shape[1]),
        inputs=ImageInputs((int(images.shape[1]), int(images.shape[2]))),
        model_bytes=_bytes_of(loaded.module),
        weights=flat_weights(loaded.module).numel(),
        sample_bytes=sample_bytes,
        input_bytes=inputs[:1].nbytes,
        retained_bytes_per_sample=outputs[:1].nbytes + 2 * inputs[:1].nbytes,
        at_once=rows.at_once(one),
    )


def _probe_texts(loaded: LoadedModel, limits: TextLimits, model: ModelConfig, trusted: list[Source]) -> Probed:
    texts = first_texts(trusted, CANDIDATES, limits)
    longest = limits.padded(longest_text(trusted, limits))
    with (
        user_code(f"{model.described}: a forward pass on a trusted text of {len(texts[0].ids):,} tokens"),
        torch.no_grad(),
    ):
        first = _measured(texts[:1], model)
        logits = logits_of(run(loaded.module, first.inputs))
        first.measurement(logits)
    with user_code(f"{model.described}: a forward and backward pass on trusted texts of at most {longest:,} tokens"):
        rows = _rows(loaded.module, model, texts, lambda chosen: _measured(chosen, model))
        length = min(longest, MEASURED_LENGTH)
        shorter, longer = (_filler(texts[0], tokens, model) for tokens in (max(2, length // 2), length))
        memory = TextBytes.fitted(_text_bytes(rows, shorter), _text_bytes(rows, longer))
        at_once = rows.at_once(longer)
        input_bytes = sum(tensor.nbytes for tensor in longer.inputs.values()) * longest // length
    return Probed(
        digest=loaded.digest,
        source=loaded.source,
        coverage=rows.coverage,
        sides=rows.sides,
        fallback=_fallback(loaded.module, rows.coverage),
        classes=0,
        inputs=TextInputs(limits, memory, batch_bytes=0),
        model_bytes=_bytes_of(loaded.module),
        weights=flat_weights(loaded.module).numel(),
        sample_bytes=memory.of(longest),
        input_bytes=input_bytes,
        retained_bytes_per_sample=logits[0, 0].nbytes * longest + 2 * input_bytes,
        at_once=max(PART_MULTIPLE, at_once * length // longest),
    )


def _filler(text: Text, tokens: int, model: ModelConfig) -> Measured:
    """So many tokens of a text repeated, of which all but the first are the completion."""
    return _measured([Text(text.ids.repeat(-(-tokens // len(text.ids)))[:tokens], 1)], model)


def _text_bytes(rows: "_Rows", text: Measured) -> tuple[int, int]:
    """How many tokens a text has, and what its pass takes."""
    return next(iter(text.inputs.values())).shape[1], round(ROOM * rows.bytes_of(text))


def _measured(texts: Sequence[Text], model: ModelConfig) -> Measured:
    tokens = TokenBatch.of([torch.from_numpy(text.ids) for text in texts], [text.completion_start for text in texts])
    return Measured(tokens.inputs, TOKEN_MEASUREMENTS[model.measurement](tokens))


@dataclass(frozen=True)
class _Rows:
    """What rows are made of, what a batch's pass takes, and how many samples like a batch's go through the model together."""

    coverage: Coverage
    sides: SideLayout
    bytes_of: Callable[[Measured], int]
    at_once: Callable[[Measured], int]


def _rows(
    module: nn.Module, model: ModelConfig, samples: Sequence[Sample], together: Callable[[Sequence[Sample]], Measured]
) -> _Rows:
    """Of gradients, of the layers that are covered; of traces, a number for each kept draw of each chain, and any model will do."""
    if model.traced is not None:
        names, kept = [f"chain {number}" for number in range(model.traced.chains)], len(model.traced.kept)
        layout = RowLayout(tuple(names), (kept,) * len(names))
        return _Rows(
            Coverage((), {}),
            SideLayout(layout, (None,) * len(names)),
            partial(step_bytes, module),
            lambda _: TRACED_AT_ONCE,
        )
    selected = select_layers(module, model.gradient.layers, model.gradient.parameters)
    coverage = check_layers(module, selected, samples, together, projection_of(model))
    extractor = RowExtractor(module, coverage.covered, projection_of(model))
    return _Rows(coverage, extractor.side_layout, partial(pass_bytes, extractor), extractor.at_once)


def _fallback(module: nn.Module, coverage: Coverage) -> dict[str, RerunCost]:
    return {layer.name: RerunCost.of(module, layer) for layer in coverage.covered if layer.name in coverage.fallback}


def _bytes_of(module: nn.Module) -> int:
    return sum(tensor.nbytes for tensor in module.state_dict().values())
