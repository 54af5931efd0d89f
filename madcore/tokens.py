"""Right-padded batches of prompts with completions, and the measurements of a language model's logits on them.

Logits are (n, s, V): samples, positions, vocabulary; those at position t - 1 predict the token at t. A completion is
the tokens from its start to the sequence's end, or, in a conversation, any tokens but the first; all others and the
padding after them are masked out of every measurement.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import FunctionCtx

from madcore.errors import ModelError
from madcore.measurements import Measurement

TokenFunction = Callable[[Tensor, Tensor, Tensor], Tensor]


class _Margins(torch.autograd.Function):
    """Margins with their gradient, `softmax of the others - one-hot of the emitted`.

    Written out so that logits are copied once instead of four times.
    """

    @staticmethod
    def forward(ctx: FunctionCtx, logits_nsv: Tensor, places_ns: Tensor, emitted_t1: Tensor) -> Tensor:
        """Compute the margins (t,) at the places that are true."""
        others_tv = logits_nsv[places_ns]
        own_t = others_tv.gather(1, emitted_t1).squeeze(1)
        peaks_t = others_tv.scatter_(1, emitted_t1, float("-inf")).amax(dim=1)
        shares_tv = torch.softmax(others_tv, dim=1)
        ctx.save_for_backward(shares_tv, places_ns, emitted_t1)
        return peaks_t - shares_tv.amax(dim=1).log() - own_t

    @staticmethod
    def backward(ctx: FunctionCtx, *grads: Tensor) -> tuple[Tensor, None, None]:
        """Compute the gradient (n, s, V) for the logits, 0 at other places."""
        shares_tv, places_ns, emitted_t1 = ctx.saved_tensors  # type: ignore[attr-defined]
        grads_t1 = grads[0].unsqueeze(1)
        grads_nsv = shares_tv.new_zeros(*places_ns.shape, shares_tv.shape[1])
        grads_nsv[places_ns] = (shares_tv * grads_t1).scatter_(1, emitted_t1, -grads_t1)
        return grads_nsv, None, None


@dataclass(frozen=True)
class TokenBatch:
    """n sequences, right-padded to s positions.

    Ids (n, s) int64, lengths (n,), and which tokens are completions', (n, s) bool. The first token of a sequence is
    never a completion's, because nothing predicts it.
    """

    ids: Tensor
    lengths: Tensor
    completions: Tensor

    @classmethod
    def of(
        cls, sequences: Sequence[Tensor], completion_starts: Sequence[int], padded_length: int | None = None
    ) -> "TokenBatch":
        """Pad sequences (each (length,) int64, at least one) with id 0, to `padded_length` or to the longest.

        Raises:
            ValueError: a completion is empty or has no token before it, or a sequence is longer than `padded_length`.
        """
        lengths = [len(sequence) for sequence in sequences]
        if any(not 1 <= start < length for start, length in zip(completion_starts, lengths, strict=True)):
            rule = "a completion must start after the first token and before the end"
            raise ValueError(f"{rule}; starts {list(completion_starts)}, lengths {lengths}")
        spans = [torch.arange(length) >= start for start, length in zip(completion_starts, lengths, strict=True)]
        return cls.of_spans(sequences, spans, padded_length)

    @classmethod
    def of_spans(
        cls, sequences: Sequence[Tensor], completions: Sequence[Tensor], padded_length: int | None = None
    ) -> "TokenBatch":
        """Like `of`, for completions of any tokens: each (length,) bool, true where a token is a completion's.

        Raises:
            ValueError: a completion is empty, begins with the first token, or is not as long as its sequence; or a
                sequence is longer than `padded_length`.
        """
        lengths = torch.tensor([len(sequence) for sequence in sequences])
        for number, (sequence, own) in enumerate(zip(sequences, completions, strict=True)):
            if own.shape != sequence.shape or not own.any() or own[0]:
                rule = "a completion must have a token, not the first one, and be as long as its sequence"
                found = f"sequence {number} has {len(sequence)} tokens, its completion {int(own.sum())} of {len(own)}"
                raise ValueError(f"{rule}; {found}")
        width = int(lengths.max()) if padded_length is None else padded_length
        if int(lengths.max()) > width:
            raise ValueError(f"a sequence of {int(lengths.max())} tokens does not fit the padded length {width}")
        ids = torch.zeros(len(sequences), width, dtype=torch.int64)
        inside = torch.zeros(len(sequences), width, dtype=torch.bool)
        for row, sequence, own in zip(range(len(sequences)), sequences, completions, strict=True):
            ids[row, : len(sequence)] = sequence
            inside[row, : len(sequence)] = own
        return cls(ids, lengths, inside)

    @property
    def inputs(self) -> dict[str, Tensor]:
        """The keyword inputs of a Hugging Face model: `input_ids` and `attention_mask`, both (n, s)."""
        return {"input_ids": self.ids, "attention_mask": self.present.long()}

    @property
    def present(self) -> Tensor:
        """Which positions are not padding, (n, s) bool."""
        return torch.arange(self.ids.shape[1]) < self.lengths.unsqueeze(1)

    def some(self, samples: slice) -> "TokenBatch":
        """Return some of the texts, padded as before."""
        return TokenBatch(self.ids[samples], self.lengths[samples], self.completions[samples])

    @property
    def predicted(self) -> Tensor:
        """Which tokens are measured, (n, s - 1) bool: entry t - 1 is true where the token at t is in a completion."""
        return self.completions[:, 1:]


@dataclass(frozen=True)
class CompletionMeasurement:
    """A measurement of logits (n, s, V): a number per token, summed over each completion, (n,)."""

    tokens: TokenBatch
    of_tokens: TokenFunction

    def __call__(self, logits_nsv: Tensor) -> Tensor:
        """Measure all samples, (n,)."""
        return sum_over_completions(self.tokens, logits_nsv, self.of_tokens)

    def some(self, samples: slice) -> "CompletionMeasurement":
        """Return the measurement of some of the samples."""
        return CompletionMeasurement(self.tokens.some(samples), self.of_tokens)


def token_margins(tokens: TokenBatch) -> Measurement:
    """Return the measurement of the terms of `token_margin`: (n, s), 0 for tokens outside the completion."""
    return lambda logits_nsv: F.pad(_each(tokens, logits_nsv, _margins), (1, 0))


def token_margin(tokens: TokenBatch) -> Measurement:
    """Return the measurement of the margin at each emitted token, summed over the completion.

    That is the sum over t of log sum over c != y_t of exp f_c, minus f_{y_t}: `madcore.margin` at the token that was
    emitted instead of the likeliest one. Unlike that of the likelihood, its gradient does not vanish where the model is
    confident.
    """
    return CompletionMeasurement(tokens, _margins)


def completion_nll(tokens: TokenBatch) -> Measurement:
    """Return the measurement of minus the log-probability of the completion given the prompt."""
    return CompletionMeasurement(tokens, _nlls)


def completion_loss(tokens: TokenBatch) -> Measurement:
    """Return `completion_nll` in float64, so that the loss of a confident completion has the digits of its logits."""
    return CompletionMeasurement(tokens, _losses)


def completion_confidence(tokens: TokenBatch, logits_nsv: Tensor) -> Tensor:
    """Return exp of the mean log-probability of each completion's tokens, (n,) float32."""

    def nlls(logits: Tensor, places_ns: Tensor, emitted_t1: Tensor) -> Tensor:
        return _cross_entropies(logits[places_ns].float(), emitted_t1)

    nll_n = sum_over_completions(tokens, logits_nsv, nlls)
    return torch.exp(-nll_n / tokens.predicted.sum(dim=1).to(nll_n))


def completion_logits(tokens: TokenBatch, logits_nsv: Tensor) -> Tensor:
    """Return the sum of the absolute logits of each completion's tokens, (n,) float64.

    Nothing of the size of the logits is copied.
    """
    n, s = tokens.ids.shape
    emitted_ns1 = tokens.ids.roll(-1, dims=1).to(logits_nsv.device).unsqueeze(2)
    own_ns = logits_nsv.gather(2, emitted_ns1).view(n, s).double().abs()
    return own_ns[:, :-1].masked_fill(~tokens.predicted.to(logits_nsv.device), 0.0).sum(dim=1)


def _margins(logits_nsv: Tensor, places_ns: Tensor, emitted_t1: Tensor) -> Tensor:
    return _Margins.apply(logits_nsv, places_ns, emitted_t1)  # type: ignore[no-untyped-call, no-any-return]


def _nlls(logits_nsv: Tensor, places_ns: Tensor, emitted_t1: Tensor) -> Tensor:
    return _cross_entropies(logits_nsv[places_ns], emitted_t1)


def _losses(logits_nsv: Tensor, places_ns: Tensor, emitted_t1: Tensor) -> Tensor:
    return _cross_entropies(logits_nsv[places_ns].double(), emitted_t1)


def _cross_entropies(logits_tv: Tensor, emitted_t1: Tensor) -> Tensor:
    return F.cross_entropy(logits_tv, emitted_t1.squeeze(1), reduction="none")


def sum_over_completions(tokens: TokenBatch, logits_nsv: Tensor, of_tokens: TokenFunction) -> Tensor:
    """Sum a number per token over each completion, (n,).

    `of_tokens` computes the numbers (t,) from logits, places (n, s) bool, and emitted tokens (t, 1).
    """
    return _each(tokens, logits_nsv, of_tokens).sum(dim=1)


def _each(tokens: TokenBatch, logits_nsv: Tensor, of_tokens: TokenFunction) -> Tensor:
    """Return a number per predicted token, (n, s - 1), 0 elsewhere.

    Only the logits of completions are copied, never those of prompts and padding.

    Raises:
        ModelError: the logits are not (n, s, V) of these tokens, with a vocabulary of at least two.
    """
    n, s = tokens.ids.shape
    if logits_nsv.ndim != 3 or logits_nsv.shape[:2] != (n, s) or logits_nsv.shape[2] < 2:
        expected = f"expected logits (samples, positions, vocabulary) of {n} x {s} tokens"
        raise ModelError(f"{expected}; the model returned shape {tuple(logits_nsv.shape)}")
    places_ns = F.pad(tokens.predicted, (0, 1)).to(logits_nsv.device)
    emitted_t1 = tokens.ids.roll(-1, dims=1).to(logits_nsv.device)[places_ns].unsqueeze(1)
    values_t = of_tokens(logits_nsv, places_ns, emitted_t1)
    zeros_ns = torch.zeros(places_ns.shape, dtype=values_t.dtype, device=values_t.device)
    return zeros_ns.masked_scatter(places_ns, values_t)[:, :-1]
