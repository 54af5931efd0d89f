"""From the rows of a source to what a model takes: batches, each with groups of samples that go through the model together.

A score must not depend on the samples beside it. Kernels add in another order for other shapes, so shapes are kept to multiples:
of images, the number in a group; of texts, the padded length.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from madcore import Measured, Measurement, TokenBatch, completion_confidence, completion_nll, margin, token_margin
from madcore.measurements import predictions_and_confidence
from pipeline.config.schema import ModelConfig
from pipeline.data.images import Reading, read_images, scaled
from pipeline.data.sources import Source
from pipeline.data.statuses import NO_CLASS
from pipeline.data.texts import Text, TextBatch, TextLimits, read_texts

TRACED_AT_ONCE = 64


@dataclass(frozen=True)
class TextBytes:
    """Memory of a text's forward and backward pass: so much a token, and, where attention's kernel keeps scores, a pair of tokens."""

    per_token: float
    per_pair: float

    @classmethod
    def fitted(cls, shorter: tuple[int, int], longer: tuple[int, int]) -> "TextBytes":
        """Through two measurements, (tokens, bytes) each; what does not grow with a text counts as if it did."""
        (short, few), (long, many) = shorter, longer
        slope = (many / long - few / short) / max(1, long - short)
        return cls(many / long - slope * long, slope) if slope > 0 else cls(max(few / short, many / long), 0.0)

    def of(self, length: int) -> int:
        """Bytes of a text of `length` tokens, at least 1."""
        return max(1, round(self.per_token * length + self.per_pair * length**2))


BATCH_MULTIPLE = 8


TOKEN_MEASUREMENTS: dict[str, Callable[[TokenBatch], Measurement]] = {
    "token_margin": token_margin,
    "completion_nll": completion_nll,
}


@dataclass(frozen=True)
class Outcome:
    """What the model made of r samples: predicted class (r,), -1 where there are none, confidence (r,), and whether its logits are finite (r,)."""

    predictions: Tensor
    confidence: Tensor
    finite: Tensor


@dataclass(frozen=True)
class Group:
    """Samples that go through the model together: their places (r,) in their batch, the model's inputs, and how its logits are read.

    The first r samples of the inputs are these, any others are padding; so it is of the logits. Of texts, `tokens` are what the
    inputs are made of.
    """

    places: Tensor
    measured: Measured
    outcome: Callable[[Tensor], Outcome]
    tokens: TokenBatch | None = None


@dataclass(frozen=True)
class SampleBatch:
    """Consecutive rows of a source: ids (null as ""), why a row is unreadable ("" where it is not), and the readable ones in groups."""

    ids: tuple[str, ...]
    unreadable: tuple[str, ...]
    groups: tuple[Group, ...]

    def pinned(self) -> "SampleBatch":
        """With the model's inputs in pinned memory, from which a GPU copies while the CPU goes on."""
        groups = tuple(
            replace(group, places=group.places.pin_memory(), measured=group.measured.pinned()) for group in self.groups
        )
        return SampleBatch(self.ids, self.unreadable, groups)


@dataclass(frozen=True)
class ImageInputs:
    """A classifier of images of one size, (height, width)."""

    size: tuple[int, int]

    def read(self, model: ModelConfig, source: Source, rows: range, batch_size: int) -> Iterator[SampleBatch]:
        """Rows of a source, `batch_size` at a time."""
        reading = Reading(batch_size, self.size, resize=model.data.preprocess.size is not None)
        for batch in read_images(source, rows.start, rows.stop, reading):
            places = _readable(batch.unreadable)
            inputs = torch.from_numpy(scaled(batch.pixels, model.data.preprocess))
            groups = (Group(places, Measured(aligned(inputs), margin), class_outcome),) if len(places) else ()
            yield SampleBatch(batch.ids, batch.unreadable, groups)


@dataclass(frozen=True)
class TextInputs:
    """A language model: what it takes, and the memory that a batch of texts may take, which long texts share with fewer others."""

    limits: TextLimits
    memory: TextBytes
    batch_bytes: int

    def read(self, model: ModelConfig, source: Source, rows: range, batch_size: int) -> Iterator[SampleBatch]:
        """Rows of a source, `batch_size` at a time, in groups of texts of similar length."""
        measure = TOKEN_MEASUREMENTS[model.measurement]
        for batch in read_texts(source, rows.start, rows.stop, self.limits, batch_size):
            fitting = self._refuse_longest(batch)
            places, texts = _readable(fitting.unreadable), fitting.texts
            chosen = self._grouped([len(text.ids) for text in texts])
            groups = tuple(
                self._group(places[members], [texts[member] for member in members], measure) for members in chosen
            )
            yield SampleBatch(fitting.ids, fitting.unreadable, groups)

    def samples(self, length: int) -> int:
        """How many texts of this padded length a batch's memory is enough for."""
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
        length = self.limits.padded(max(len(text.ids) for text in texts))
        tokens = TokenBatch.of(
            [torch.from_numpy(text.ids) for text in texts], [text.completion_start for text in texts], length
        )
        return Group(
            places, Measured(tokens.inputs, measure(tokens)), lambda logits: completion_outcome(tokens, logits), tokens
        )

    def _refuse_longest(self, batch: TextBatch) -> TextBatch:
        """The batch without the texts of which not even one fits."""
        reasons, kept, texts = list(batch.unreadable), [], iter(batch.texts)
        for index in _readable(batch.unreadable).tolist():
            text = next(texts)
            needed = self.memory.of(self.limits.padded(len(text.ids)))
            if needed <= self.batch_bytes:
                kept.append(text)
            else:
                reasons[index] = (
                    f"input_ids has {len(text.ids):,} tokens, which would need {needed / 2**20:,.0f} MiB; run.memory_per_worker leaves "
                    f"{self.batch_bytes / 2**20:,.0f} MiB for a batch: grant more"
                )
        return TextBatch(batch.ids, tuple(reasons), tuple(kept))


ModelInputs = ImageInputs | TextInputs


def class_outcome(logits_nc: Tensor) -> Outcome:
    """The predicted class and its probability."""
    finite = torch.isfinite(logits_nc).all(dim=1)
    predictions, confidence = predictions_and_confidence(torch.where(finite.unsqueeze(1), logits_nc, 0.0))
    return Outcome(predictions, confidence, finite)


def completion_outcome(tokens: TokenBatch, logits_nsv: Tensor) -> Outcome:
    """No class; exp of the mean log-probability of the completion's tokens."""
    confidence = completion_confidence(tokens, logits_nsv)
    return Outcome(torch.full_like(confidence, NO_CLASS, dtype=torch.int64), confidence, torch.isfinite(confidence))


def no_outcome(samples: int, device: torch.device) -> Outcome:
    """Of samples that nobody asks about: no class, and nothing that is not finite."""
    nothing = torch.zeros(samples, device=device)
    return Outcome(
        torch.full_like(nothing, NO_CLASS, dtype=torch.int64), nothing, torch.ones_like(nothing, dtype=torch.bool)
    )


def aligned(inputs: Tensor) -> Tensor:
    """Inputs (n, ...), n at least 1, with the first one repeated until n is a multiple of BATCH_MULTIPLE.

    Kernels add in another order for batches of one or of odd sizes. A last-bit difference can open or close a rectifier, which
    moved one row in 200 by up to 0.4 % of its norm between batches of 1 and 256 (zoo networks, CPU); aligned, they were equal.
    """
    missing = -len(inputs) % BATCH_MULTIPLE
    return torch.cat([inputs, inputs[:1].expand(missing, *inputs.shape[1:])]) if missing else inputs


def _readable(unreadable: Sequence[str]) -> Tensor:
    return torch.tensor([index for index, reason in enumerate(unreadable) if not reason], dtype=torch.int64)
