"""Whether a language model is causal: measurements assume that no token sees itself or a later one."""

import torch
from torch import Tensor, nn

from madcore import TokenBatch
from madcore.measurements import logits_of, run
from pipeline.errors import SourceError

TOLERANCE = 1e-4  # of the largest logit; rounding alone stays below it


def check_causal(module: nn.Module, ids_s: Tensor, vocabulary: int, described: str) -> None:
    """Compare the logits of the first half of a text (s,), at least 2 tokens, with those before another second half.

    Raises:
        SourceError: they differ.
    """
    half = len(ids_s) // 2
    other_s = torch.cat([ids_s[:half], (ids_s[half:] + 1) % vocabulary])
    with torch.no_grad():
        texts = [TokenBatch.of([own_s], [1]).inputs for own_s in (ids_s, other_s)]
        logits_hv, others_hv = (logits_of(run(module, inputs))[0, :half] for inputs in texts)
    largest, difference = float(logits_hv.abs().max()), float((logits_hv - others_hv).abs().max())
    if difference > TOLERANCE * largest:
        raise SourceError(
            f"{described}: is not causal: other tokens in the second half of a text change the logits of the first by "
            f"up to {difference:.3g} (the largest is {largest:.3g}), so that tokens are predicted from themselves; a "
            "causal language model is needed, such as one whose config.json says is_decoder: true"
        )
