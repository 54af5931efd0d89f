"""The first texts of a text classifier, and what texts of it take."""

from collections.abc import Callable, Sequence

import numpy as np
from torch import Tensor

from madcore import Inputs, Measured
from madcore.measurements import PART_MULTIPLE
from pipeline.config.schema import ModelConfig
from pipeline.data.sources import Source
from pipeline.data.texts.sequences import first_sequences
from pipeline.data.texts.tokenizers import FolderTokenizer
from pipeline.data.texts.tokens import Tokens
from pipeline.errors import SourceError
from pipeline.inputs.lengths import TextBytes
from pipeline.inputs.model_inputs import ModelInputs
from pipeline.inputs.sequences import SequenceInputs, padded
from pipeline.models.interface import SequenceFacts
from pipeline.planning.probe.first import FirstSamples
from pipeline.planning.probe.found import SampleSizes
from pipeline.planning.probe.rows import ROOM, RowProbe

MEASURED_LENGTH = 512  # tokens of the longest text that memory is measured with


def first_of_sequences(
    facts: SequenceFacts, model: ModelConfig, trusted: Sequence[Source], wanted: int
) -> FirstSamples:
    """The first readable texts of the trusted set.

    Raises:
        SourceError: there are none, or there are texts, and the folder has no tokenizer.
    """
    tokenizer = _tokenizer(facts, model)
    tokenize = None if tokenizer is None else tokenizer.tokens
    samples, looked_at = first_sequences(trusted, wanted, facts.limits, tokenize)
    longest = facts.limits.padded(max(len(one.ids) for one in looked_at))
    whole = SequenceInputs(facts.limits, facts.pad, tokenizer, TextBytes(1.0, 0.0), batch_bytes=0)

    def alone(sequence: Tokens) -> Inputs:
        return padded([sequence], facts.pad, len(sequence.ids))

    def together(chosen: Sequence[Inputs]) -> Inputs:
        return whole.padded([_tokens(one) for one in chosen])

    def sized(
        rows: RowProbe, measured: Callable[[Sequence[Inputs]], Measured], output_bytes: int
    ) -> tuple[ModelInputs, SampleSizes]:
        length = min(longest, MEASURED_LENGTH)
        shorter, longer = (measured([alone(_repeated(samples[0], one))]) for one in (max(2, length // 2), length))
        memory = TextBytes.fitted(_bytes(rows, shorter), _bytes(rows, longer))
        input_bytes = sum(tensor.nbytes for tensor in _named(longer.inputs).values()) * longest // length
        sizes = SampleSizes(
            sample_bytes=memory.of(longest),
            input_bytes=input_bytes,
            retained_bytes_per_sample=output_bytes + 2 * input_bytes,
            samples_per_pass=max(PART_MULTIPLE, rows.samples_per_pass(longer) * length // longest),
        )
        return SequenceInputs(facts.limits, facts.pad, tokenizer, memory, batch_bytes=0), sizes

    return FirstSamples([alone(one) for one in samples], together, sized, _cut(looked_at, tokenizer))


def _tokenizer(facts: SequenceFacts, model: ModelConfig) -> FolderTokenizer | None:
    if model.data.columns.text is None:
        return None
    if facts.tokenizer is None:
        raise SourceError(
            f"{model.described}: has no tokenizer.json, which makes tokens of texts; save it there with "
            "tokenizer.save_pretrained(folder), or name a column of token ids, data.columns.input_ids"
        )
    return facts.tokenizer


def _cut(looked_at: Sequence[Tokens], tokenizer: FolderTokenizer | None) -> tuple[str, ...]:
    """A warning about texts that are longer than the model takes."""
    cut = sum(one.cut for one in looked_at)
    if tokenizer is None or not cut:
        return ()
    return (
        f"{cut:,} of the {len(looked_at):,} trusted texts that were looked at have more than {tokenizer.longest:,} "
        "tokens, and what is behind these is not seen by the model, nor by a score",
    )


def _repeated(sequence: Tokens, length: int) -> Tokens:
    """A sequence over and over, of this many tokens."""
    times = -(-length // len(sequence.ids))
    types = None if sequence.types is None else np.tile(sequence.types, times)[:length]
    return Tokens(np.tile(sequence.ids, times)[:length], types)


def _tokens(inputs: Inputs) -> Tokens:
    """The sequence that a model is given alone."""
    named = _named(inputs)
    types = named.get("token_type_ids")
    return Tokens(named["input_ids"][0].numpy(), None if types is None else types[0].numpy())


def _named(inputs: Inputs) -> dict[str, Tensor]:
    assert not isinstance(inputs, Tensor)
    return dict(inputs)


def _bytes(rows: RowProbe, one: Measured) -> tuple[int, int]:
    """How many tokens a text has, and the bytes that its pass takes."""
    return _named(one.inputs)["input_ids"].shape[1], round(ROOM * rows.bytes_of(one))
