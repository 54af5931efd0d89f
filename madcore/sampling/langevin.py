"""Sampling of weights around the trained ones w*, by stochastic gradient Langevin dynamics (SGLD; Welling & Teh 2011).

    V <- alpha V + (1 - alpha) g^2,   G = 1 / (sqrt(V) + eps_rms)
    w <- w - (step / 2) G [n_beta g + gamma (w - w*)] + sqrt(step G) N(0, 1)

g is the gradient of the mean loss of a minibatch of the sampling set. The preconditioner is RMSprop's (Li et al. 2016,
arXiv 1512.07666, without their drift term for the change of G); localisation by gamma and the settings are those of
arXiv 2604.18970, for the Bayesian influence function of Kreer et al. 2025, arXiv 2509.26544. Exact regime: on a
quadratic loss of Hessian H, with full batches and G = 1, the chain is Gaussian around w*, of variance
1 / (l (1 - step l / 4)) along each eigenvector of n_beta H + gamma I, l its eigenvalue.

Weights are flat, (P,): all floating-point parameters, tied ones once, in the order of `model.named_parameters()`.
Randomness is keyed by (seed, chain, step), so a resumed chain continues as if it had never stopped, bit for bit if the
model's gradients are deterministic.
"""

import hashlib
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from madcore.errors import MadcoreError, ModelError

Preconditioner = Literal["rmsprop", "none"]


@dataclass(frozen=True)
class SamplingSet:
    """The clean samples whose losses chains differentiate.

    `losses`: maps indices (b,), int64 on the CPU, to the losses (b,) of those samples under the model's present
    weights, differentiably. `samples`: how many there are.
    """

    losses: Callable[[Tensor], Tensor]
    samples: int


class DivergedError(MadcoreError, ArithmeticError):
    """A chain has left the neighbourhood of w*, so its losses no longer say anything about w*."""


@dataclass(frozen=True)
class Chain:
    """A chain after `steps` steps: its weights (P,), and V as second_moment (P,)."""

    number: int
    weights: Tensor
    second_moment: Tensor
    steps: int

    @classmethod
    def start(cls, number: int, anchor: Tensor) -> "Chain":
        """Return the chain before its first step: at w*, `anchor` (P,), with V = 0."""
        return cls(number, anchor, torch.zeros_like(anchor), 0)


@dataclass(frozen=True)
class Langevin:
    """Settings of the sampler, by default those of arXiv 2604.18970 for CIFAR-10.

    With the preconditioner `none`, G is 1 and V stays 0. A chain is stable while step G l < 4 for the eigenvalues l of
    n_beta H + gamma I; G is at most 1 / eps_rms.
    """

    preconditioner: Preconditioner = "rmsprop"
    gamma: float = 10_000.0
    n_beta: float = 100.0
    step: float = 1e-6
    alpha: float = 0.99
    eps_rms: float = 0.1
    batch: int = 256
    seed: int = 0

    def advanced(self, chain: Chain, anchor: Tensor, gradient: Tensor, noise: Tensor) -> Chain:
        """Return the chain after a step, by the gradient of the mean loss at its weights and normal noise, all (P,)."""
        second_moment, scale = chain.second_moment, torch.ones_like(gradient)
        if self.preconditioner == "rmsprop":
            second_moment = self.alpha * second_moment + (1 - self.alpha) * gradient.square()
            scale = 1 / (second_moment.sqrt() + self.eps_rms)
        pull = self.n_beta * gradient + self.gamma * (chain.weights - anchor)
        weights = chain.weights - self.step / 2 * scale * pull + (self.step * scale).sqrt() * noise
        return Chain(chain.number, weights, second_moment, chain.steps + 1)


def flat_weights(model: nn.Module) -> Tensor:
    """Copy the model's weights, (P,), in float32 at least: in half precision, steps would be lost to rounding."""
    flat = torch.cat([parameter.detach().flatten() for parameter in _parameters(model)])
    return flat.to(torch.promote_types(flat.dtype, torch.float32))


@torch.no_grad()
def place_weights(model: nn.Module, flat: Tensor) -> None:
    """Write weights (P,) into the model's parameters, in place.

    Raises:
        ModelError: the model has a different number of weights.
    """
    parameters = _parameters(model)
    sizes = [parameter.numel() for parameter in parameters]
    if sum(sizes) != flat.numel():
        remedy = "give it weights of the same architecture"
        raise ModelError(f"the model has {sum(sizes)} weights and is given {flat.numel()}: {remedy}")
    for parameter, part in zip(parameters, flat.split(sizes), strict=True):
        parameter.copy_(part.view_as(parameter))


def minibatch(seed: int, chain_number: int, step: int, samples: int, batch: int) -> Tensor:
    """Choose the samples of a step without replacement: indices (batch,) below `samples`, int64 on the CPU.

    If batch >= samples, all of them in order.

    Raises:
        ValueError: `samples` or `batch` is 0.
    """
    if min(samples, batch) < 1:
        raise ValueError(f"a minibatch of {batch} of {samples} samples is empty: sampling needs at least one sample")
    if batch >= samples:
        return torch.arange(samples)
    key = int.from_bytes(_digest(f"{seed}/minibatch/{chain_number}/{step}"), "little")
    return torch.from_numpy(np.argsort(np.random.Philox(key=key).random_raw(samples), kind="stable")[:batch].copy())


def noise(seed: int, chain_number: int, step: int, like: Tensor) -> Tensor:
    """Return standard normal noise for a step, with the shape, device and precision of a tensor.

    The bits are the same each time on one kind of device.
    """
    key = int.from_bytes(_digest(f"{seed}/noise/{chain_number}/{step}")[:8], "little")
    generator = torch.Generator(like.device).manual_seed(key)
    return torch.randn(like.shape, generator=generator, device=like.device, dtype=like.dtype)


def draw(model: nn.Module, settings: Langevin, chain: Chain, anchor: Tensor, clean: SamplingSet) -> tuple[Chain, float]:
    """Draw once: advance the chain by one step and place its weights in the model.

    Args:
        model: in eval mode, so that the statistics of BatchNorm stay those of w*.
        settings: of the sampler.
        chain: the one to continue; its weights are placed first, whatever the model's are.
        anchor: w*, (P,).
        clean: the sampling set. Parameters that do not contribute to a loss have a zero gradient; none needs to require
            one beforehand.

    Returns:
        The new chain, and the mean loss of the minibatch at the previous weights.

    Raises:
        ModelError: the model is in training mode, has a different number of weights, or the losses do not depend on it.
        DivergedError: the loss or the new weights are not finite; the model keeps the previous weights.
    """
    if any(module.training for module in model.modules()):
        complaint = "the model, or a part of it, is in training mode, where its statistics change with every draw"
        raise ModelError(f"{complaint}: call model.eval() first")
    place_weights(model, chain.weights)
    indices = minibatch(settings.seed, chain.number, chain.steps, clean.samples, settings.batch)
    loss, gradient = _mean_loss(model, clean.losses, indices)
    after = settings.advanced(chain, anchor, gradient, noise(settings.seed, chain.number, chain.steps, anchor))
    if not math.isfinite(loss):
        raise _diverged(settings, after, f"its minibatch has a loss of {loss:g}")
    if not (after.weights.isfinite().all() and after.second_moment.isfinite().all()):
        what = f"after a minibatch with a loss of {loss:g}, its weights or their second moment are not finite"
        raise _diverged(settings, after, what)
    place_weights(model, after.weights)
    return after, loss


def check_loss(settings: Langevin, chain: Chain, loss: float, guessing: float) -> None:
    """Check that a chain's mean loss on a fixed probe is at most `guessing`, that of a model that only guesses (log C).

    Raises:
        DivergedError: it is larger, or not a number.
    """
    if not loss <= guessing:
        raise _diverged(settings, chain, f"its probe has a loss of {loss:g}, more than the {guessing:g} of guessing")


def _diverged(settings: Langevin, chain: Chain, what: str) -> DivergedError:
    lower = f"lower `step` (now {settings.step:g}) or `n_beta` (now {settings.n_beta:g})"
    remedy = f"To stay near them, {lower}, or raise `gamma` (now {settings.gamma:g})"
    return DivergedError(f"draw {chain.steps} of chain {chain.number} has left the trained weights: {what}. {remedy}")


def _digest(use: str) -> bytes:
    return hashlib.blake2b(use.encode(), digest_size=16).digest()


def _parameters(model: nn.Module) -> list[nn.Parameter]:
    return [parameter for _, parameter in model.named_parameters() if parameter.is_floating_point()]


def _mean_loss(model: nn.Module, losses: Callable[[Tensor], Tensor], indices: Tensor) -> tuple[float, Tensor]:
    """Compute the mean loss of samples, and its gradient (P,) in the precision of flat weights."""
    with requiring_gradients(model) as parameters:
        mean = losses(indices).mean()
        if not mean.requires_grad:
            remedy = "compute them with the model itself, with gradients enabled"
            raise ModelError(f"the losses do not depend on the model's weights: {remedy}")
        gradients = torch.autograd.grad(mean, parameters, allow_unused=True, materialize_grads=True)
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    return float(mean.detach()), flat.to(torch.promote_types(flat.dtype, torch.float32))


@contextmanager
def requiring_gradients(model: nn.Module) -> Iterator[list[nn.Parameter]]:
    """Inside, all weights require a gradient, whether or not they do outside."""
    parameters = _parameters(model)
    before = [parameter.requires_grad for parameter in parameters]
    try:
        with torch.enable_grad():
            for parameter in parameters:
                parameter.requires_grad_(True)
            yield parameters
    finally:
        for parameter, required in zip(parameters, before, strict=True):
            parameter.requires_grad_(required)
