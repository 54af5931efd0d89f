"""What a plan learns from a language model and a few trusted texts."""

from collections.abc import Callable, Sequence

import numpy as np
import torch

from madcore import Measured
from madcore.measurements import PART_MULTIPLE, logits_of, run
from pipeline.config.schema import ModelConfig
from pipeline.data.sources import Source
from pipeline.data.texts.reading import first_texts, longest_text
from pipeline.data.texts.rows import Text, TextLimits
from pipeline.inputs.lengths import TextBytes
from pipeline.inputs.tokens import TOKEN_MEASUREMENTS, TextInputs, token_batch
from pipeline.models.interface import LoadedModel
from pipeline.models.user_code import user_code
from pipeline.planning.checks.causality import check_causal
from pipeline.planning.checks.token_types import zeros_change_logits
from pipeline.planning.probe.found import Probe, SampleSizes
from pipeline.planning.probe.rows import CANDIDATES, ROOM, Report, RowProbe, check_finite, findings, probe_rows

MEASURED_LENGTH = 512  # tokens of the longest text that memory is measured with


def probe_texts(
    loaded: LoadedModel, limits: TextLimits, model: ModelConfig, trusted: Sequence[Source], report: Report
) -> Probe:
    """Probe a language model.

    Raises:
        SourceError: it does not accept the trusted texts, or is not causal.
        ModelError: its outputs are random or mix samples, or none of its layers can be covered.
    """
    texts = first_texts(trusted, CANDIDATES, limits)
    longest = limits.padded(longest_text(trusted, limits))
    forward = f"{model.described}: a forward pass on a trusted text of {len(texts[0].ids):,} tokens"
    with user_code(forward), torch.no_grad():
        first = _measured(texts[:1], model)
        logits = logits_of(run(loaded.module, first.inputs))
        first.measurement(logits)
    check_finite(loaded, model, logits)
    with user_code(f"{model.described}: a forward and backward pass on trusted texts of at most {longest:,} tokens"):
        rows = probe_rows(loaded.module, model, texts, lambda chosen: _measured(chosen, model), report)
        check_causal(loaded.module, torch.from_numpy(texts[0].ids), limits.vocabulary, model.described)
        reads_token_types = zeros_change_logits(loaded.module, torch.from_numpy(texts[0].ids))
        report("measuring the memory of a pass")
        inputs, sizes = text_sizes(
            rows, limits, longest, logits[0, 0].nbytes, lambda tokens: filler(texts[0], tokens, model)
        )
    found = findings(loaded, rows, inputs, sizes)
    return found.model_copy(update={"reads_token_types": reads_token_types})


def text_sizes(
    rows: RowProbe, limits: TextLimits, longest: int, logit_bytes: int, of_length: Callable[[int], Measured]
) -> tuple[TextInputs, SampleSizes]:
    """What texts of a model take, by the passes of two of them.

    Args:
        rows: what the rows are like.
        limits: of the model's texts.
        longest: tokens of the longest trusted one.
        logit_bytes: of one token's logits.
        of_length: makes a text of so many tokens.
    """
    length = min(longest, MEASURED_LENGTH)
    shorter, longer = (of_length(tokens) for tokens in (max(2, length // 2), length))
    memory = TextBytes.fitted(_text_bytes(rows, shorter), _text_bytes(rows, longer))
    input_bytes = sum(tensor.nbytes for tensor in longer.inputs.values()) * longest // length
    sizes = SampleSizes(
        sample_bytes=memory.of(longest),
        input_bytes=input_bytes,
        retained_bytes_per_sample=logit_bytes * longest + 2 * input_bytes,
        samples_per_pass=max(PART_MULTIPLE, rows.samples_per_pass(longer) * length // longest),
    )
    return TextInputs(limits, memory, batch_bytes=0), sizes


def filler(text: Text, tokens: int, model: ModelConfig) -> Measured:
    """A text repeated to a number of tokens, of which all but the first are the completion."""
    return _measured([Text(text.ids.repeat(-(-tokens // len(text.ids)))[:tokens], np.arange(tokens) > 0)], model)


def _text_bytes(rows: RowProbe, text: Measured) -> tuple[int, int]:
    """How many tokens a text has, and the bytes that its pass takes."""
    return next(iter(text.inputs.values())).shape[1], round(ROOM * rows.bytes_of(text))


def _measured(texts: Sequence[Text], model: ModelConfig) -> Measured:
    tokens = token_batch(texts)
    return Measured(tokens.inputs, TOKEN_MEASUREMENTS[model.measurement](tokens))
