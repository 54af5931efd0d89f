"""Whether a language model is causal: measurements assume that no token sees itself or a later one."""

import torch
from torch import Tensor, nn

from madcore import TokenBatch
from madcore.measurements import logits_of, run
from pipeline.errors import SourceError

TOLERANCE = 1e-3  # of the largest logit; rounding alone stays far below it


def check_causal(module: nn.Module, ids_s: Tensor, vocabulary: int, described: str) -> None:
    """Compare the logits before a text's last token (s,) with those of the text with another last token.

    Raises:
        SourceError: they differ.
    """
    other_s = torch.cat([ids_s[:-1], (ids_s[-1:] + 1) % vocabulary])
    with torch.no_grad():
        logits_sv, others_sv = (
            logits_of(run(module, TokenBatch.of([own], [1]).inputs))[0, :-1] for own in (ids_s, other_s)
        )
    largest, difference = float(logits_sv.abs().max()), float((logits_sv - others_sv).abs().max())
    if difference > TOLERANCE * largest:
        raise SourceError(
            f"{described}: is not causal: another last token changes the logits before it by up to {difference:.3g} "
            f"(the largest is {largest:.3g}), so that a token is predicted from itself; a causal language model is "
            "needed, such as one whose config.json says is_decoder: true"
        )
