"""How well chains of weights have sampled: how many independent draws theirs are worth, and how far they moved."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from pydantic import JsonValue
from torch import Tensor

from infra.storage.storage import Storage
from madcore.sampling.traces import autocorrelation_time
from pipeline.artifacts.chains import Draw, read_draws
from pipeline.artifacts.curvature import read_reference_rows
from pipeline.planning.plan import ModelPlan

SAMPLES = 64

FEWEST_EFFECTIVE, LARGEST_DRIFT = 20, 0.25


def diagnose(
    storage: Storage, plan: ModelPlan, segments: Sequence[Sequence[str]], references: str
) -> dict[str, JsonValue]:
    """The section `sampling` of a summary, with its warnings.

    `autocorrelation_time`, in kept draws, is the median over reference samples (64 at most, evenly spaced) of that of
    their traces, averaged over chains; `effective_sample_size` is the sum over chains of kept draws over theirs.
    `loss_inflation` is the mean loss of kept draws on the probe, minus that at the trained weights, in nats. `drift` is
    how much larger the distance from the trained weights is in the last quarter of a chain's kept draws than in the
    first, 0 where it has settled.

    Args:
        storage: of the root.
        plan: the model's, whose estimator is `loss_trace`.
        segments: the folders of each chain.
        references: the folder of the references task, whose rows are traces.
    """
    settings = plan.config.traced
    assert settings is not None
    times = _autocorrelation_times(plan, read_reference_rows(storage, references))
    draws = [[draw for folder in folders for draw in read_draws(storage, folder)] for folders in segments]
    chains = [_chain(own, settings.burn_in) for own in draws]
    section: dict[str, JsonValue] = {
        "draws_kept": plan.layout.k,
        "autocorrelation_time": float(np.mean(times)),
        "effective_sample_size": sum(size / own for size, own in zip(plan.layout.sizes, times, strict=True)),
        "loss_inflation": float(np.mean([chain["loss_inflation"] for chain in chains])),
        "drift": max(chain["drift"] for chain in chains),
        "chains": [{**chain, "autocorrelation_time": own} for chain, own in zip(chains, times, strict=True)],
    }
    return {"sampling": {**section, "warnings": _warnings(plan, times, chains)}}


def _autocorrelation_times(plan: ModelPlan, traces: Tensor) -> list[float]:
    """Of each chain, the median over some samples, evenly spaced."""
    some = traces[:: -(-len(traces) // SAMPLES)]
    return [float(np.median([autocorrelation_time(trace) for trace in block])) for block in plan.layout.blocks(some)]


def _warnings(plan: ModelPlan, times: Sequence[float], chains: Sequence[Mapping[str, float]]) -> list[JsonValue]:
    effective = sum(size / own for size, own in zip(plan.layout.sizes, times, strict=True))
    time, drift = float(np.mean(times)), max(chain["drift"] for chain in chains)
    still = "a chain has not moved: its steps vanish in the rounding of weights; raise estimator.step"
    few = (
        f"the {plan.layout.k:,} kept draws are worth {effective:.0f} independent ones "
        f"(autocorrelation time {time:.0f}); raise estimator.draws or chains"
    )
    drifting = (
        f"a chain has not converged: its last kept draws are {drift:.0%} further from the trained weights than "
        "its first; raise estimator.burn_in"
    )
    lines = {
        still: any(chain["distance"] == 0 for chain in chains),
        few: effective < FEWEST_EFFECTIVE,
        drifting: drift > LARGEST_DRIFT,
    }
    return [line for line, applies in lines.items() if applies]


def _chain(draws: Sequence[Draw], burn_in: int) -> dict[str, float]:
    """The figures of one chain; its first draw is that of the trained weights."""
    start, kept = draws[0], draws[1 + burn_in :]
    distances: NDArray[np.float64] = np.array([draw.distance for draw in kept])
    quarter = max(1, len(kept) // 4)
    first = float(distances[:quarter].mean())
    return {
        "loss_at_trained_weights": start.probe_loss,
        "loss_inflation": float(np.mean([draw.probe_loss for draw in kept])) - start.probe_loss,
        "distance": float(distances.mean()),
        "drift": float(distances[-quarter:].mean()) / first - 1 if first else 0.0,
    }
