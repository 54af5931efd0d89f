"""Whether a model's forward pass can be audited: it is not random, and a sample's outputs are its own.

Otherwise a score would change from run to run, or with the samples that happen to share a batch.
"""

from collections.abc import Callable, Sequence
from itertools import zip_longest
from typing import TypeVar

import torch
from torch import Tensor, nn

from madcore.coverage.first_difference import digests, failing_module, first_difference, parts_of
from madcore.coverage.held_generators import generators_replaced
from madcore.coverage.random_draws import TorchDraws
from madcore.coverage.random_sources import EXTREMES, NUMPY, Extreme, RandomSource, states_kept
from madcore.errors import FAILURES, ModelError, first_line
from madcore.formulas.of_module import holders
from madcore.isolation import fits_float64, in_float64
from madcore.measurements import Measured, logits_of, run

COMPANY = 4
ROUNDINGS = 256  # of a sample's largest logit: more than this in float32 is decided in float64
LARGEST_DIFFERENCE, LARGEST_IN_FLOAT64 = 1e-3, 3e-6
ON_GPU = 1e-5  # kernels that add in any order

Sample = TypeVar("Sample")


@torch.no_grad()
def check_forward_pass(
    model: nn.Module,
    samples: Sequence[Sample],
    together: Callable[[Sequence[Sample]], Measured],
    sources: Sequence[RandomSource] = (NUMPY,),
) -> None:
    """Refuse a model whose outputs are random, or depend on the other samples of the batch.

    The first four samples run twice as one batch, and each runs alone.

    Args:
        model: in eval mode.
        samples: a few, at least 1, of any kind.
        together: makes a batch of samples, padded only as far as the longest of them needs.
        sources: generators of random numbers that all code shares, besides torch's; those that modules hold are found.

    Raises:
        ModelError: the outputs are random, or depend on other samples, or the forward pass changes a parameter; the
            message names the module where that begins.
    """
    company = samples[:COMPANY]
    batch = together(company)
    with generators_replaced(model) as held, states_kept(model, sources):
        outputs = _check_not_random(model, batch, [*sources, *held])
        _check_own(model, [together([sample]) for sample in company], batch, outputs)


def _check_not_random(model: nn.Module, batch: Measured, sources: Sequence[RandomSource]) -> Tensor:
    """Return the logits of a batch; raise ModelError if they are random."""
    first, draws, drawn = _drawing(model, batch, sources)
    second, draws_again, _ = _drawing(model, batch, sources)
    pairs = enumerate(zip_longest(draws, draws_again))
    free = {number for number, (one, other) in pairs if one != other}  # drawn from no state that was set before

    def again() -> object:
        return run(model, batch.inputs)

    def extreme(which: Extreme) -> Tensor:
        for source in sources:
            source.write(source.extremes[which])
        try:
            with TorchDraws(which, free.__contains__):
                return logits_of(run(model, batch.inputs))
        except FAILURES:  # which the draws made
            return torch.tensor(float(which == "lowest"))

    lowest = extreme("lowest") if free or drawn else first
    others: Sequence[Extreme] = EXTREMES[1:] if free or drawn else ()
    differing = next((which for which in others if not _same(lowest, extreme(which))), None)
    if differing is not None:
        where = first_difference(model, lambda: extreme("lowest"), lambda: extreme(differing), digests)
    elif not _same(first, second):
        where = first_difference(model, again, again, digests)
    else:
        return first
    raise ModelError(
        f"the model's outputs are random: the same {batch.samples} samples, run again, have other outputs"
        f"{where}; in eval mode no dropout, noise or sampling may be active (F.dropout needs training=self.training), "
        "nothing that a pass changes outside the model (a global, a closure) may change the next, or no score could be "
        "computed twice"
    )


def _drawing(
    model: nn.Module, batch: Measured, sources: Sequence[RandomSource]
) -> tuple[Tensor, Sequence[bytes], bool]:
    """Return a batch's logits, the states that torch drew from, and whether other sources were drawn from."""
    before = [source.read() for source in sources]
    versions = {name: parameter._version for name, parameter in model.named_parameters()}
    with TorchDraws() as draws:
        logits = logits_of(run(model, batch.inputs))
    bounded = _bounded_tables(model)
    changed = [
        name
        for name, parameter in model.named_parameters()
        if parameter._version != versions[name] and parameter not in bounded
    ]
    if changed:
        raise ModelError(
            f"a forward pass changes the parameter {changed[0]} in place, so a score would depend on the samples "
            "before it: compute a new tensor instead"
        )
    return logits, draws.states, before != [source.read() for source in sources]


def _bounded_tables(model: nn.Module) -> set[nn.Parameter]:
    """Return the tables of embeddings with `max_norm`, and of nothing else.

    Such a module shortens a vector as it looks it up, which changes no later look-up.
    """
    tables = nn.Embedding | nn.EmbeddingBag
    return {
        parameter
        for parameter, uses in holders(model).items()
        if all(isinstance(module, tables) and module.max_norm is not None for module, _ in uses)
    }


def _same(one: Tensor, other: Tensor) -> bool:
    """Whether two results of the same computation are equal: on a CPU to the bit."""
    if one.shape != other.shape:
        return False
    return torch.allclose(
        one, other, rtol=ON_GPU if one.is_cuda else 0, atol=ON_GPU if one.is_cuda else 0, equal_nan=True
    )


def _check_own(model: nn.Module, alone: Sequence[Measured], batch: Measured, outputs: Tensor) -> None:
    """Raise ModelError if samples have other logits alone than in a batch."""
    single = outputs.dtype is torch.float32
    enough = ROUNDINGS * torch.finfo(torch.float32).eps if single else LARGEST_IN_FLOAT64
    for place, one in enumerate(alone):
        try:
            logits = logits_of(run(model, one.inputs))
        except FAILURES as error:
            raise _fails_alone(model, one, batch.samples, error) from error
        found = _apart(logits, outputs, place)
        if found <= enough:
            continue
        decided = _apart_in_float64(model, one, batch, place) if outputs.dtype is not torch.float64 else found
        if found > LARGEST_DIFFERENCE if decided is None else decided > LARGEST_IN_FLOAT64:
            raise _mixed(model, one, batch, place)


def _fails_alone(model: nn.Module, one: Measured, samples: int, error: Exception) -> ModelError:
    where = failing_module(model, lambda: run(model, one.inputs))
    return ModelError(
        f"the model runs {samples} samples together and fails on one of them alone{where} ({first_line(error)}); every "
        "sample needs outputs of its own: in eval mode, no statistics may be those of the batch, and no axis of one "
        "sample may be squeezed away"
    )


def _apart_in_float64(model: nn.Module, one: Measured, batch: Measured, place: int) -> float | None:
    """Return how far a sample's logits alone and in company are apart, None where that cannot be computed.

    A model may exceed a range that it fixes itself, such as masks of float64's lowest number in float32: its outputs in
    float64 then decide nothing.
    """
    if not fits_float64(model):
        return None
    try:
        with in_float64(model):
            alone, company = (logits_of(run(model, inputs.double().inputs)) for inputs in (one, batch))
            return _apart(alone, company, place) if torch.isfinite(alone).all() else None
    except FAILURES:
        return None


def _apart(alone: Tensor, company: Tensor, place: int) -> float:
    """Return how far a sample's logits alone and in company are apart, infinity where they cannot be compared.

    It is relative to the largest of those that differ: a class that is masked out by a large number, which is the same
    in both, is no measure of the others. Padding is left out.
    """
    if alone.ndim != company.ndim or alone.shape[0] != 1 or place >= company.shape[0]:
        return float("inf")
    own, only = _own(alone, company, place), alone[0].double()
    if own.shape != only.shape:
        return float("inf")
    differ = ~torch.isclose(own, only, rtol=0, atol=0, equal_nan=True)
    if not torch.isfinite(own[differ]).all() or not torch.isfinite(only[differ]).all():
        return float("inf")
    gaps, sizes = (own - only)[differ].abs(), only[differ].abs()
    return float(gaps.amax() / sizes.amax().clamp(min=1e-12)) if len(gaps) else 0.0


def _own(alone: Tensor, company: Tensor, place: int) -> Tensor:
    """Return a sample's logits in company, in float64, without padding."""
    return company[place][tuple(slice(size) for size in alone.shape[1:])].double()


def _mixed(model: nn.Module, one: Measured, batch: Measured, place: int) -> ModelError:
    """Return the error for a model that mixes the samples of a batch."""
    alone, outputs = logits_of(run(model, one.inputs)), logits_of(run(model, batch.inputs))
    found = _found(alone, outputs, place, batch.samples)
    where = first_difference(
        model,
        lambda: run(model, one.inputs),
        lambda: run(model, batch.inputs),
        parts_of((0, 1), (place, batch.samples)),
    )
    return ModelError(
        f"a sample's outputs depend on the other samples of its batch: {found}{where}; in eval mode, normalization "
        "needs running statistics (track_running_stats=True), attention needs the samples on the axis that it takes "
        "for them (batch_first), and padding needs an attention mask"
    )


def _found(alone: Tensor, company: Tensor, place: int, samples: int) -> str:
    """Return in words how a sample's logits alone and in company differ."""
    apart = _apart(alone, company, place)
    if apart < float("inf"):
        change = f"{apart:.2g} of the largest" if apart < 1 else "as much as they are, or more,"
        return f"its outputs change by {change} when it runs with {samples - 1} others"
    if alone.ndim == company.ndim and alone.shape[0] == 1 and place < company.shape[0]:
        own, only = torch.isfinite(_own(alone, company, place)), torch.isfinite(alone[0])
        if own.shape == only.shape:
            return f"alone {int(only.sum())} of its {only.numel()} outputs are finite, in company {int(own.sum())}"
    return f"alone its outputs have the shape {tuple(alone.shape)}, in company {tuple(company.shape)}"
