"""Measurements of models whose outputs are not logits of classes, one of which is right: several labels, or numbers.

Each label of a multi-label model is a decision of its own, by the sign of its logit z. The margin of a decision, log of
the probability of the other one over that of its own, is -|z|: the margin of two classes with logits 0 and z. A sample
is measured by the sum of its labels' margins, whose gradient is the sum of theirs: influence is linear in the
measurement (Koh & Liang 2017, arXiv 1703.04730). Its labels are those that are predicted, because most of hundreds of
labels are absent from most samples, for reasons that samples share; where none is predicted, the likeliest.

A regression has no decision whose margin could be taken; its measurement is the output itself, the model's function
whose tangent kernel the rows then are (Jacot et al. 2018, arXiv 1806.07572). Of several outputs f_d, the sum of s_d f_d
with random signs s_d keeps their inner products in expectation: E over s of (sum_d s_d g_d) . (sum_e s_e h_e) is the
sum over d of g_d . h_d (Hutchinson 1990).
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from madcore.errors import ModelError


@dataclass(frozen=True)
class LabelMargin:
    """The measurement of a multi-label model's logits (n, L): the sum of -|z| over a sample's labels, in nats.

    `chosen`: the labels of every sample; () for those that it is predicted to have, or else its likeliest.
    """

    chosen: tuple[int, ...] = ()

    def __call__(self, logits_nl: Tensor) -> Tensor:
        """Measure all samples, (n,).

        Raises:
            ModelError: the outputs are not (n, L), or have no label that was chosen.
        """
        margins_nl = -_outputs(logits_nl, self.chosen).abs()
        if self.chosen:
            return margins_nl[:, list(self.chosen)].sum(dim=1)
        own_nl = logits_nl > 0
        likeliest_n1 = logits_nl.argmax(dim=1, keepdim=True)
        own_nl = own_nl.scatter(1, likeliest_n1, value=True)
        return torch.where(own_nl, margins_nl, 0.0).sum(dim=1)

    def some(self, samples: slice) -> "LabelMargin":
        """Return the measurement of some of the samples: it is the same for each."""
        return self


@dataclass(frozen=True)
class OutputSum:
    """The measurement of a regression's outputs (n, D): the one output, or the sum of several with random signs.

    `chosen`: the outputs that count; () for all. Signs are those of the outputs' numbers, by Philox (Salmon et al.
    2011) from the seed, so that more outputs change none; the first is +1.
    """

    seed: int = 0
    chosen: tuple[int, ...] = ()

    def __call__(self, outputs_nd: Tensor) -> Tensor:
        """Measure all samples, (n,).

        Raises:
            ModelError: the outputs are not (n, D), or one that was chosen is not there.
        """
        count = _outputs(outputs_nd, self.chosen).shape[1]
        signs_d = self.signs(count).to(outputs_nd)
        places = list(self.chosen or range(count))
        return (outputs_nd[:, places] * signs_d[places]).sum(dim=1)

    def signs(self, count: int) -> Tensor:
        """Return the signs of so many outputs, (count,) float32."""
        words = np.random.Philox(key=self.seed).random_raw(count)
        signs = torch.from_numpy(1.0 - 2.0 * (words >> np.uint64(63)).astype(np.float32))
        return signs * signs[:1]

    def some(self, samples: slice) -> "OutputSum":
        """Return the measurement of some of the samples: it is the same for each."""
        return self


def _outputs(outputs_nd: Tensor, chosen: tuple[int, ...]) -> Tensor:
    if outputs_nd.ndim != 2:
        raise ModelError(f"outputs (samples, outputs) are needed; the model returned shape {tuple(outputs_nd.shape)}")
    if chosen and max(chosen) >= outputs_nd.shape[1]:
        raise ModelError(
            f"there is no output {max(chosen)}: the model has {outputs_nd.shape[1]}, counted from 0; "
            "name others in estimator.measured"
        )
    return outputs_nd
