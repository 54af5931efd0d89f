"""Inputs of text classifiers: sequences of tokens, padded at their ends to lengths that few others have."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from madcore import Measured
from pipeline.config.schema import ModelConfig
from pipeline.data.input_columns import TYPE_IDS
from pipeline.data.sources import Source
from pipeline.data.texts.rows import TextLimits
from pipeline.data.texts.sequences import TokensBatch, read_sequences
from pipeline.data.texts.tokenizers import FolderTokenizer
from pipeline.data.texts.tokens import Tokens
from pipeline.inputs.batches import Group, SampleBatch, readable
from pipeline.inputs.lengths import TextBytes, grouped
from pipeline.tasks.registry import VECTOR_TASKS


@dataclass(frozen=True)
class SequenceInputs:
    """The inputs of a text classifier: what it takes, what one costs, and the memory that a batch may take.

    `pad`: the token that pads. `tokenizer`: which makes tokens of texts, None where columns hold tokens.
    """

    limits: TextLimits
    pad: int
    tokenizer: FolderTokenizer | None
    memory: TextBytes
    batch_bytes: int
    kind: Literal["sequences"] = "sequences"

    def read(self, model: ModelConfig, source: Source, rows: range, batch_size: int) -> Iterator[SampleBatch]:
        """Rows of a source, `batch_size` at a time, in groups of sequences of similar length."""
        tokenize = None if self.tokenizer is None else self.tokenizer.tokens
        for batch in read_sequences(source, rows.start, rows.stop, self.limits, batch_size, tokenize):
            fitting = self._refuse_longest(batch)
            places, sequences = readable(fitting.unreadable), fitting.sequences
            groups = tuple(
                self._group(model, places[members], [sequences[member] for member in members])
                for members in grouped([len(one.ids) for one in sequences], self._fitting)
            )
            yield SampleBatch(fitting.ids, fitting.unreadable, groups)

    def padded(self, sequences: Sequence[Tokens]) -> dict[str, Tensor]:
        """What the model is given of sequences: ids, the mask, and types where they have some, (n, length) each."""
        return padded(sequences, self.pad, self.limits.padded(max(len(one.ids) for one in sequences)))

    def _group(self, model: ModelConfig, places: Tensor, sequences: Sequence[Tokens]) -> Group:
        inputs, task = self.padded(sequences), VECTOR_TASKS[model.task]
        mask = inputs["attention_mask"].bool()
        return Group(places, Measured(inputs, task.measurement(model)), task.predict, mask=mask)

    def _fitting(self, length: int) -> int:
        """How many sequences of this length fit into a batch's memory."""
        return self.batch_bytes // self.memory.of(self.limits.padded(length))

    def _refuse_longest(self, batch: TokensBatch) -> TokensBatch:
        """The batch without the sequences that do not fit even alone."""
        reasons, kept, sequences = list(batch.unreadable), [], iter(batch.sequences)
        for index in readable(batch.unreadable).tolist():
            sequence = next(sequences)
            needed = self.memory.of(self.limits.padded(len(sequence.ids)))
            if needed <= self.batch_bytes:
                kept.append(sequence)
            else:
                reasons[index] = (
                    f"it has {len(sequence.ids):,} tokens, which would need {needed / 2**20:,.0f} MiB; "
                    f"run.memory_per_worker leaves {self.batch_bytes / 2**20:,.0f} MiB for a batch: grant more"
                )
        return TokensBatch(batch.ids, tuple(reasons), tuple(kept))


def padded(sequences: Sequence[Tokens], pad: int, length: int) -> dict[str, Tensor]:
    """What a model is given of sequences (n, length): ids, the mask, and types where they have some."""
    count = len(sequences)
    ids, mask = torch.full((count, length), pad), torch.zeros(count, length, dtype=torch.int64)
    types = torch.zeros(count, length, dtype=torch.int64)
    for row, one in enumerate(sequences):
        ids[row, : len(one.ids)] = torch.from_numpy(one.ids)
        mask[row, : len(one.ids)] = 1
        if one.types is not None:
            types[row, : len(one.ids)] = torch.from_numpy(one.types)
    typed = any(one.types is not None for one in sequences)
    return {"input_ids": ids, "attention_mask": mask, **({TYPE_IDS: types} if typed else {})}
