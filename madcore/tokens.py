"""Token sequences: right-padded batches of prompts with completions, and what is measured of a language model's logits on them.

Logits are (n, s, V): samples, positions, vocabulary; those at position t - 1 predict the token at t. A completion is the tokens from
its start to the sequence's end; the prompt before it and the padding behind it are masked out of every measurement.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from madcore.errors import ModelError
from madcore.measurements import Measurement

OfTokens = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class TokenBatch:
    """n sequences, right-padded to s positions: ids (n, s) int64, and per sequence its length and where its completion starts, (n,)."""

    ids: Tensor
    lengths: Tensor
    completion_starts: Tensor

    @classmethod
    def of(cls, sequences: Sequence[Tensor], completion_starts: Sequence[int], padded_length: int | None = None) -> "TokenBatch":
        """Pads sequences (each (length,) int64, at least one) with id 0, to `padded_length` or to the longest.

        Raises:
            ValueError: a completion is empty or has no token before it, or a sequence is longer than `padded_length`.
        """
        lengths = torch.tensor([len(sequence) for sequence in sequences])
        starts = torch.tensor(list(completion_starts))
        if ((starts < 1) | (starts >= lengths)).any():
            raise ValueError(f"a completion must start after the first token and before the end; starts {starts.tolist()}, lengths {lengths.tolist()}")
        width = int(lengths.max()) if padded_length is None else padded_length
        if int(lengths.max()) > width:
            raise ValueError(f"a sequence of {int(lengths.max())} tokens does not fit the padded length {width}")
        ids = torch.zeros(len(sequences), width, dtype=torch.int64)
        for row, sequence in zip(ids, sequences, strict=True):
            row[: len(sequence)] = sequence
        return cls(ids, lengths, starts)

    @property
    def inputs(self) -> dict[str, Tensor]:
        """Keyword inputs of a Hugging Face model: `input_ids` and `attention_mask`, both (n, s)."""
        return {"input_ids": self.ids, "attention_mask": (self._positions < self.lengths.unsqueeze(1)).long()}

    @property
    def predicted(self) -> Tensor:
        """Which positions are predicted and measured, (n, s - 1) bool: entry t - 1 is true where the token at t is of a completion."""
        positions_s = self._positions[1:]
        return (positions_s >= self.completion_starts.unsqueeze(1)) & (positions_s < self.lengths.unsqueeze(1))

    @property
    def _positions(self) -> Tensor:
        return torch.arange(self.ids.shape[1])


def token_margins(tokens: TokenBatch) -> Measurement:
    """The terms of `token_margin`, one per position: (n, s), 0 where the token at that position is of no completion."""
    return lambda logits_nsv: F.pad(_each(tokens, logits_nsv, _margins), (1, 0))


def token_margin(tokens: TokenBatch) -> Measurement:
    """The margin at each emitted token, summed over the completion: sum over t of log sum over c != y_t of exp f_c, minus f_{y_t}.

    The margin of `madcore.margin`, at the token that was emitted instead of the likeliest one; its gradient does not vanish where
    the model is certain, as that of the likelihood does.
    """
    return lambda logits_nsv: _summed(tokens, logits_nsv, _margins)


def completion_nll(tokens: TokenBatch) -> Measurement:
    """Minus the log-probability of the completion given the prompt."""
    return lambda logits_nsv: _summed(tokens, logits_nsv, _nlls)


def completion_confidence(tokens: TokenBatch, logits_nsv: Tensor) -> Tensor:
    """Exp of the mean log-probability of each completion's tokens, (n,) float32."""
    nll_n = _summed(tokens, logits_nsv, lambda selected, emitted: _nlls(selected.float(), emitted))
    return torch.exp(-nll_n / tokens.predicted.sum(dim=1).to(nll_n))


def _margins(logits_tv: Tensor, emitted_t1: Tensor) -> Tensor:
    others = logits_tv.scatter(1, emitted_t1, float("-inf"))
    return torch.logsumexp(others, dim=1) - logits_tv.gather(1, emitted_t1).squeeze(1)


def _nlls(logits_tv: Tensor, emitted_t1: Tensor) -> Tensor:
    return torch.logsumexp(logits_tv, dim=1) - logits_tv.gather(1, emitted_t1).squeeze(1)


def _summed(tokens: TokenBatch, logits_nsv: Tensor, of_tokens: OfTokens) -> Tensor:
    """Sums (n,) over each completion of a number per token."""
    return _each(tokens, logits_nsv, of_tokens).sum(dim=1)


def _each(tokens: TokenBatch, logits_nsv: Tensor, of_tokens: OfTokens) -> Tensor:
    """A number per predicted token, (n, s - 1), 0 elsewhere. Only the completions' logits are copied, never those of prompts and padding.

    Raises:
        ModelError: the logits are not (n, s, V) of these tokens, with a vocabulary of at least two.
    """
    n, s = tokens.ids.shape
    if logits_nsv.ndim != 3 or logits_nsv.shape[:2] != (n, s) or logits_nsv.shape[2] < 2:
        raise ModelError(f"expected logits (samples, positions, vocabulary) of {n} x {s} tokens; the model returned shape {tuple(logits_nsv.shape)}")
    predicted = tokens.predicted.to(logits_nsv.device)
    emitted_t1 = tokens.ids[:, 1:].to(logits_nsv.device)[predicted].unsqueeze(1)
    values_t = of_tokens(logits_nsv[:, :-1][predicted], emitted_t1)
    return torch.zeros(predicted.shape, dtype=values_t.dtype, device=values_t.device).masked_scatter(predicted, values_t)
