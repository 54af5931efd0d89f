"""Rows whose second moment is a curvature of the training loss, instead of that of the measurement.

The loss is cross-entropy, of a language model summed over its completion. A sample has a number of *draws*, rows h_d
with

    mean over d of h_d h_d^T  =  its part of the curvature,

so that `BlockMoment` of all of them is the curvature.

`ggn`: the Gauss-Newton matrix J^T (diag p - p p^T) J, J the Jacobian of the C logits and p their softmax; it equals the
sum over classes of p_c g_c g_c^T, g_c the gradient of -log p_c (Martens 2020, arXiv 1412.1193, section 9), so h_c =
sqrt(C p_c) g_c. `fisher`: one draw, the gradient of -log p_y for a label y sampled from the model; its second moment
has the Gauss-Newton matrix as its mean over labels. A language model's labels are sampled token by token.
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
    """Numbers in [0, 1) that labels are sampled by: (n, count) float64, on the CPU.

    Keyed by (seed, the sample's name), from a counter-based generator (Philox, Salmon et al. 2011): a sample's do not
    depend on the samples beside it, and a longer stream begins like a shorter one.
    """
    digests = [hashlib.blake2b(f"{seed}/label/{name}".encode(), digest_size=16).digest() for name in names]
    words = [np.random.Philox(key=int.from_bytes(digest, "little")).random_raw(count) for digest in digests]
    return torch.from_numpy((np.array(words, np.uint64).reshape(len(names), count) >> np.uint64(11)) * 2.0**-53)


def sampled_nlls(logits_tc: Tensor, uniforms_t: Tensor) -> Tensor:
    """-log p_y, (t,), of labels y sampled from the softmax p of logits (t, C): the first class whose cumulated probability exceeds the uniform."""
    labels = [
        _labels(logits.detach(), uniforms)
        for logits, uniforms in zip(logits_tc.split(BLOCK), uniforms_t.split(BLOCK), strict=True)
    ]
    return F.cross_entropy(logits_tc, torch.cat(labels), reduction="none")


def _labels(logits_tc: Tensor, uniforms_t: Tensor) -> Tensor:
    cumulated_tc = torch.softmax(logits_tc.double(), dim=1).cumsum(dim=1)
    labels_t1 = torch.searchsorted(
        cumulated_tc, uniforms_t.to(cumulated_tc).unsqueeze(1) * cumulated_tc[:, -1:], right=True
    )
    return labels_t1.squeeze(1).clamp(max=logits_tc.shape[1] - 1)


@dataclass(frozen=True)
class SampledLabels:
    """The measurement -log p_y of a classifier's logits (n, C), labels sampled by `uniforms` (n,)."""

    uniforms: Tensor

    def __call__(self, logits_nc: Tensor) -> Tensor:
        """Of all samples."""
        return sampled_nlls(_checked(logits_nc), self.uniforms)

    def some(self, samples: slice) -> "SampledLabels":
        """Of some samples."""
        return SampledLabels(self.uniforms[samples])


@dataclass(frozen=True)
class SampledCompletions:
    """The measurement of a language model's logits (n, s, V): minus the log-probability of tokens sampled by `uniforms` (n, s) where the completion is.

    The text itself stays what the model reads.
    """

    tokens: TokenBatch
    uniforms: Tensor

    def __call__(self, logits_nsv: Tensor) -> Tensor:
        """Of all samples."""
        uniforms_ns = self.uniforms.to(logits_nsv.device)
        return sum_over_completions(
            self.tokens,
            logits_nsv,
            lambda logits, places_ns, _: sampled_nlls(logits[places_ns], uniforms_ns[places_ns]),
        )

    def some(self, samples: slice) -> "SampledCompletions":
        """Of some samples."""
        return SampledCompletions(self.tokens.some(samples), self.uniforms[samples])


@dataclass(frozen=True)
class _ClassLosses:
    """-log p_c of each class, times sqrt(C p_c) as of a number: a term (n, C) per class."""

    def __call__(self, logits_nc: Tensor) -> Tensor:
        logs_nc = _checked(logits_nc).log_softmax(dim=1)
        return -logs_nc * (logs_nc.detach().exp() * logits_nc.shape[1]).sqrt()

    def some(self, samples: slice) -> "_ClassLosses":
        return self


def gauss_newton_rows(extractor: RowExtractor, inputs: Inputs, classes: int) -> Tensor:
    """The rows h_c of a classifier's samples, in one forward pass and a backward pass per class.

    Args:
        extractor: of the model.
        inputs: of the model, n samples.
        classes: how many logits it has.

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
        raise ModelError(
            f"a curvature of the loss needs logits (samples, classes) of at least 2 classes; the model returned shape {tuple(logits_nc.shape)}"
        )
    return logits_nc
