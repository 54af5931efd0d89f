"""Rows whose second moment is a curvature of the training loss, instead of that of the measurement.

The loss is cross-entropy, for a language model summed over the completion. A sample has one or more rows h_j with

    mean over j of h_j h_j^T  =  its part of the curvature,

so the `BlockMoment` of the rows of all samples is the curvature.

`ggn`: the Gauss-Newton matrix J^T (diag p - p p^T) J, J the Jacobian of the C logits and p their softmax. It equals the
sum over classes of p_c g_c g_c^T, g_c the gradient of -log p_c (Martens 2020, arXiv 1412.1193, section 9), so a sample
has C rows h_c = sqrt(C p_c) g_c.

`fisher`: one row, the gradient of -log p_y for a label y sampled from the model. The expectation of its second moment
over labels is the Gauss-Newton matrix. A language model's labels are sampled token by token.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from madcore.errors import ModelError
from madcore.extraction.extractor import RowExtractor
from madcore.measurements import Inputs, Measured
from madcore.tokens import TokenBatch, sum_over_completions

BLOCK = 256


def label_uniforms(seed: int, names: Sequence[str], count: int = 1) -> Tensor:
    """Return uniform numbers in [0, 1) to sample labels with: (n, count) float64, on the CPU.

    Keyed by (seed, the sample's name), from a counter-based generator (Philox, Salmon et al. 2011): a sample's numbers
    do not depend on the other samples, and a longer stream begins like a shorter one.
    """
    digests = [hashlib.blake2b(f"{seed}/label/{name}".encode(), digest_size=16).digest() for name in names]
    words = [np.random.Philox(key=int.from_bytes(digest, "little")).random_raw(count) for digest in digests]
    return torch.from_numpy((np.array(words, np.uint64).reshape(len(names), count) >> np.uint64(11)) * 2.0**-53)


def sampled_nlls(logits_tc: Tensor, uniforms_t: Tensor) -> Tensor:
    """Return -log p_y, (t,), of labels y sampled from the softmax p of logits (t, C).

    The label is the first class whose cumulative probability exceeds the uniform number (t,).
    """
    blocks = zip(logits_tc.split(BLOCK), uniforms_t.split(BLOCK), strict=True)
    labels = [_labels(logits.detach(), uniforms) for logits, uniforms in blocks]
    return F.cross_entropy(logits_tc, torch.cat(labels), reduction="none")


def _labels(logits_tc: Tensor, uniforms_t: Tensor) -> Tensor:
    cumulative_tc = torch.softmax(logits_tc.double(), dim=1).cumsum(dim=1)
    thresholds_t1 = uniforms_t.to(cumulative_tc).unsqueeze(1) * cumulative_tc[:, -1:]
    labels_t1 = torch.searchsorted(cumulative_tc, thresholds_t1, right=True)
    return labels_t1.squeeze(1).clamp(max=logits_tc.shape[1] - 1)


@dataclass(frozen=True)
class SampledLabels:
    """The measurement -log p_y of a classifier's logits (n, C), with labels y sampled by `uniforms` (n,)."""

    uniforms: Tensor

    def __call__(self, logits_nc: Tensor) -> Tensor:
        """Measure all samples, (n,)."""
        return sampled_nlls(_checked(logits_nc), self.uniforms)

    def some(self, samples: slice) -> "SampledLabels":
        """Return the measurement of some of the samples."""
        return SampledLabels(self.uniforms[samples])


@dataclass(frozen=True)
class SampledCompletions:
    """The measurement of a language model's logits (n, s, V): minus the log-probability of sampled completion tokens.

    `uniforms` (n, s) sample a token at each position of the completion. The model still reads the text itself.
    """

    tokens: TokenBatch
    uniforms: Tensor

    def __call__(self, logits_nsv: Tensor) -> Tensor:
        """Measure all samples, (n,)."""
        uniforms_ns = self.uniforms.to(logits_nsv.device)

        def nlls(logits: Tensor, places_ns: Tensor, _: Tensor) -> Tensor:
            return sampled_nlls(logits[places_ns], uniforms_ns[places_ns])

        return sum_over_completions(self.tokens, logits_nsv, nlls)

    def some(self, samples: slice) -> "SampledCompletions":
        """Return the measurement of some of the samples."""
        return SampledCompletions(self.tokens.some(samples), self.uniforms[samples])


@dataclass(frozen=True)
class _ClassLosses:
    """A term (n, C) per class: -log p_c times sqrt(C p_c), where the second factor is treated as a constant."""

    def __call__(self, logits_nc: Tensor) -> Tensor:
        logs_nc = _checked(logits_nc).log_softmax(dim=1)
        return -logs_nc * (logs_nc.detach().exp() * logits_nc.shape[1]).sqrt()

    def some(self, samples: slice) -> "_ClassLosses":
        return self


def gauss_newton_rows(extractor: RowExtractor, inputs: Inputs, classes: int) -> Tensor:
    """Compute the rows h_c of a classifier's samples, in one forward pass and one backward pass per class.

    Args:
        extractor: of the model.
        inputs: of the model, n samples.
        classes: the number of logits.

    Returns:
        Rows (n, C, k), in the model's precision, without autocast. Few samples go through the model together (see
        `RowExtractor.at_once`).

    Raises:
        ModelError: the outputs are not (n, C).
        LayerError: as for the rows of samples.
    """
    batch = Measured(inputs, _ClassLosses())
    parts = [extractor.per_term(part, range(classes)) for _, part in batch.parts(extractor.at_once(batch))]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _checked(logits_nc: Tensor) -> Tensor:
    if logits_nc.ndim != 2 or logits_nc.shape[1] < 2:
        needed = "a curvature of the loss needs logits (samples, classes) of at least 2 classes"
        raise ModelError(f"{needed}; the model returned shape {tuple(logits_nc.shape)}")
    return logits_nc
