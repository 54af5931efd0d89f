"""Inputs of causal language models: token sequences, padded to lengths that few others have."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from madcore import (
    Measured,
    Measurement,
    TokenBatch,
    completion_confidence,
    completion_logits,
    completion_nll,
    token_margin,
)
from pipeline.config.schema import ModelConfig
from pipeline.data.sources import Source
from pipeline.data.statuses import NO_CLASS
from pipeline.data.texts.reading import TextBatch, read_texts
from pipeline.data.texts.rows import Text, TextLimits
from pipeline.inputs.batches import Group, SampleBatch, readable
from pipeline.inputs.lengths import TextBytes, grouped
from pipeline.tasks.predictions import Predictions

TOKEN_MEASUREMENTS: dict[str, Callable[[TokenBatch], Measurement]] = {
    "token_margin": token_margin,
    "completion_nll": completion_nll,
}


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
            places, texts = readable(fitting.unreadable), fitting.texts
            groups = tuple(
                self._group(places[members], [texts[member] for member in members], measure)
                for members in grouped([len(text.ids) for text in texts], self._fitting)
            )
            yield SampleBatch(fitting.ids, fitting.unreadable, groups)

    def samples(self, length: int) -> int:
        """How many texts of this padded length fit into a batch's memory."""
        return self.batch_bytes // self.memory.of(length)

    def _fitting(self, length: int) -> int:
        return self.samples(self.limits.padded(length))

    def _group(self, places: Tensor, texts: Sequence[Text], measure: Callable[[TokenBatch], Measurement]) -> Group:
        tokens = token_batch(texts, self.limits.padded(max(len(text.ids) for text in texts)))
        measured = Measured(tokens.inputs, measure(tokens))
        return Group(places, measured, lambda logits: predict_completions(tokens, logits), tokens)

    def _refuse_longest(self, batch: TextBatch) -> TextBatch:
        """The batch without the texts that do not fit even alone."""
        reasons, kept, texts = list(batch.unreadable), [], iter(batch.texts)
        for index in readable(batch.unreadable).tolist():
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


def token_batch(texts: Sequence[Text], padded_length: int | None = None) -> TokenBatch:
    """Texts as a batch of tokens, padded to this length or to the longest."""
    ids, measured = [torch.from_numpy(text.ids) for text in texts], [torch.from_numpy(text.measured) for text in texts]
    return TokenBatch.of_spans(ids, measured, padded_length)


def predict_completions(tokens: TokenBatch, logits_nsv: Tensor) -> Predictions:
    """No class; as confidence, exp of the mean log-probability of the completion's tokens."""
    confidence = completion_confidence(tokens, logits_nsv)
    classes = torch.full_like(confidence, NO_CLASS, dtype=torch.int64)
    return Predictions(classes, confidence, torch.isfinite(confidence), completion_logits(tokens, logits_nsv))
