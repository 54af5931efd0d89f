"""From the rows of a source to a model's inputs: batches, in groups of samples that go through the model together.

A score must not depend on the other samples in its batch. Kernels sum in another order for other shapes, so shapes are
kept to multiples: for images, the number in a group; for texts, the padded length.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from madcore import (
    Measured,
    Measurement,
    TokenBatch,
    completion_confidence,
    completion_logits,
    completion_nll,
    margin,
    token_margin,
)
from madcore.measurements import predictions_and_confidence
from madcore.scoring.flat import margin_sizes
from pipeline.config.schema import ModelConfig
from pipeline.data.images.reading import ImageOptions, read_images, scale_pixels
from pipeline.data.sources import Source
from pipeline.data.statuses import NO_CLASS
from pipeline.data.texts.reading import TextBatch, read_texts
from pipeline.data.texts.rows import Text, TextLimits

TRACED_AT_ONCE = 64


BATCH_MULTIPLE = 8


TOKEN_MEASUREMENTS: dict[str, Callable[[TokenBatch], Measurement]] = {
    "token_margin": token_margin,
    "completion_nll": completion_nll,
}


@dataclass(frozen=True)
class TextBytes:
    """Bytes of a text's forward and backward pass: per token, and per pair of tokens where attention keeps scores."""

    per_token: float
    per_pair: float

    @classmethod
    def fitted(cls, shorter: tuple[int, int], longer: tuple[int, int]) -> "TextBytes":
        """Fits two measurements, (tokens, bytes) each; memory that does not grow with a text counts as if it did."""
        (short, few), (long, many) = shorter, longer
        slope = (many / long - few / short) / max(1, long - short)
        return cls(many / long - slope * long, slope) if slope > 0 else cls(max(few / short, many / long), 0.0)

    def of(self, length: int) -> int:
        """Bytes of a text of `length` tokens, at least 1."""
        return max(1, round(self.per_token * length + self.per_pair * length**2))


@dataclass(frozen=True)
class Predictions:
    """What a model predicts for r samples.

    The predicted class (r,), NO_CLASS where there are no classes, its confidence (r,), and whether its logits are
    finite (r,). `size`: of what is measured (r,), the absolute margin, or of a text the sum of the absolute logits of
    its completion's tokens. `flat`: which samples have no gradient (r,) (see `madcore.scoring.flat`), once known.
    """

    predictions: Tensor
    confidence: Tensor
    finite: Tensor
    size: Tensor
    flat: Tensor | None = None


@dataclass(frozen=True)
class Group:
    """Samples that go through the model together: their places (r,) in the batch, the inputs, and how logits are read.

    The first r samples of the inputs and of the logits are these; any others are padding. For texts, the inputs are
    made from `tokens`.
    """

    places: Tensor
    measured: Measured
    predict: Callable[[Tensor], Predictions]
    tokens: TokenBatch | None = None


@dataclass(frozen=True)
class SampleBatch:
    """Consecutive rows of a source: their ids, why each is unreadable, and those that are not in groups.

    A null id is "", and so is the reason of a readable row.
    """

    ids: tuple[str, ...]
    unreadable: tuple[str, ...]
    groups: tuple[Group, ...]

    def pinned(self) -> "SampleBatch":
        """With the model's inputs in pinned memory, from which a GPU copies while the CPU continues."""
        pinned = (
            replace(group, places=group.places.pin_memory(), measured=group.measured.pinned()) for group in self.groups
        )
        return SampleBatch(self.ids, self.unreadable, tuple(pinned))


@dataclass(frozen=True)
class ImageInputs:
    """The inputs of a classifier of images of one size, (height, width)."""

    size: tuple[int, int]

    def read(self, model: ModelConfig, source: Source, rows: range, batch_size: int) -> Iterator[SampleBatch]:
        """Rows of a source, `batch_size` at a time."""
        preprocess = model.data.preprocess
        options = ImageOptions(batch_size, self.size, preprocess.size is not None, preprocess.channels)
        for batch in read_images(source, rows.start, rows.stop, options):
            places = _readable(batch.unreadable)
            inputs = torch.from_numpy(scale_pixels(batch.pixels, preprocess))
            groups = (Group(places, Measured(align(inputs), margin), predict_classes),) if len(places) else ()
            yield SampleBatch(batch.ids, batch.unreadable, groups)


@dataclass(frozen=True)
class TextInputs:
    """The inputs of a language model: the texts that it takes, what one costs, and the memory that a batch may take."""

    limits: TextLimits
    memory: TextBytes
    batch_bytes: int

    def read(self, model: ModelConfig, source: Source, rows: range, batch_size: int) -> Iterator[SampleBatch]:
        """Rows of a source, `batch_size` at a time, in groups of texts of similar length."""
        measure = TOKEN_MEASUREMENTS[model.measurement]
        for batch in read_texts(source, rows.start, rows.stop, self.limits, batch_size):
            fitting = self._refuse_longest(batch)
            places, texts = _readable(fitting.unreadable), fitting.texts
            groups = tuple(
                self._group(places[members], [texts[member] for member in members], measure)
                for members in self._grouped([len(text.ids) for text in texts])
            )
            yield SampleBatch(fitting.ids, fitting.unreadable, groups)

    def samples(self, length: int) -> int:
        """How many texts of this padded length fit into a batch's memory."""
        return self.batch_bytes // self.memory.of(length)

    def _grouped(self, lengths: Sequence[int]) -> Iterator[list[int]]:
        """Indices of texts by length, shortest first, cut where one more would not fit."""
        members: list[int] = []
        for index in sorted(range(len(lengths)), key=lambda one: lengths[one]):
            if members and len(members) >= self.samples(self.limits.padded(lengths[index])):
                yield members
                members = []
            members.append(index)
        if members:
            yield members

    def _group(self, places: Tensor, texts: Sequence[Text], measure: Callable[[TokenBatch], Measurement]) -> Group:
        tokens = token_batch(texts, self.limits.padded(max(len(text.ids) for text in texts)))
        measured = Measured(tokens.inputs, measure(tokens))
        return Group(places, measured, lambda logits: predict_completions(tokens, logits), tokens)

    def _refuse_longest(self, batch: TextBatch) -> TextBatch:
        """The batch without the texts that do not fit even alone."""
        reasons, kept, texts = list(batch.unreadable), [], iter(batch.texts)
        for index in _readable(batch.unreadable).tolist():
            text = next(texts)
            needed = self.memory.of(self.limits.padded(len(text.ids)))
            if needed <= self.batch_bytes:
                kept.append(text)
            else:
                reasons[index] = (
                    f"input_ids has {len(text.ids):,} tokens, which would need {needed / 2**20:,.0f} MiB; "
                    f"run.memory_per_worker leaves {self.batch_bytes / 2**20:,.0f} MiB for a batch: grant more"
                )
        return TextBatch(batch.ids, tuple(reasons), tuple(kept))


ModelInputs = ImageInputs | TextInputs


def token_batch(texts: Sequence[Text], padded_length: int | None = None) -> TokenBatch:
    """Texts as a batch of tokens, padded to this length or to the longest."""
    ids, measured = [torch.from_numpy(text.ids) for text in texts], [torch.from_numpy(text.measured) for text in texts]
    return TokenBatch.of_spans(ids, measured, padded_length)


def predict_classes(logits_nc: Tensor) -> Predictions:
    """The predicted class and its probability."""
    finite = torch.isfinite(logits_nc).all(dim=1)
    logits_nc = torch.where(finite.unsqueeze(1), logits_nc, 0.0)
    predictions, confidence = predictions_and_confidence(logits_nc)
    return Predictions(predictions, confidence, finite, margin_sizes(logits_nc))


def predict_completions(tokens: TokenBatch, logits_nsv: Tensor) -> Predictions:
    """No class; as confidence, exp of the mean log-probability of the completion's tokens."""
    confidence = completion_confidence(tokens, logits_nsv)
    classes = torch.full_like(confidence, NO_CLASS, dtype=torch.int64)
    return Predictions(classes, confidence, torch.isfinite(confidence), completion_logits(tokens, logits_nsv))


def no_predictions(samples: int, device: torch.device) -> Predictions:
    """For samples whose predictions are not needed: no class, and all logits finite."""
    classes = torch.full((samples,), NO_CLASS, dtype=torch.int64, device=device)
    finite = torch.ones(samples, dtype=torch.bool, device=device)
    nothing = torch.zeros(samples, device=device)
    return Predictions(classes, nothing, finite, nothing)


def align(inputs: Tensor) -> Tensor:
    """Inputs (n, ...), n at least 1, with the first one repeated until n is a multiple of BATCH_MULTIPLE.

    Kernels sum in another order for batches of one or of odd sizes. A last-bit difference can open or close a
    rectifier, which moved one row in 200 by up to 0.4 % of its norm between batches of 1 and 256 (zoo networks, CPU);
    aligned, they were equal.
    """
    missing = -len(inputs) % BATCH_MULTIPLE
    return torch.cat([inputs, inputs[:1].expand(missing, *inputs.shape[1:])]) if missing else inputs


def _readable(unreadable: Sequence[str]) -> Tensor:
    return torch.tensor([index for index, reason in enumerate(unreadable) if not reason], dtype=torch.int64)
