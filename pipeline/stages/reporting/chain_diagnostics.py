"""How well chains of weights have sampled: what their draws are worth, and how far they went."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from pydantic import JsonValue

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
    """The section `sampling` of a summary, with what of it is a warning.

    Args:
        storage: of the root.
        plan: the model's, whose estimator is `loss_trace`.
        segments: the folders of each chain.
        references: the folder of the references task, whose rows are traces.

    `autocorrelation_time`, in kept draws, is the median over reference samples (64 at most, evenly spaced) of that of their traces, averaged over
    chains; `effective_sample_size` is the sum over chains of kept draws over theirs. `loss_inflation` is the mean loss of kept draws on the probe,
    minus that at the trained weights, in nats. `drift` is how much larger the distance from the trained weights is in the last quarter of a
    chain's kept draws than in the first, 0 where it has settled.
    """
    settings = plan.config.traced
    assert settings is not None
    traces = read_reference_rows(storage, references)
    some = traces[:: -(-len(traces) // SAMPLES)]
    times = [float(np.median([autocorrelation_time(trace) for trace in block])) for block in plan.layout.blocks(some)]
    time = float(np.mean(times))
    effective = sum(size / own for size, own in zip(plan.layout.sizes, times, strict=True))
    chains = [
        _chain(own, settings.burn_in)
        for own in ([draw for folder in folders for draw in read_draws(storage, folder)] for folders in segments)
    ]
    drift = max(chain["drift"] for chain in chains)
    found: dict[str, JsonValue] = {
        "draws_kept": plan.layout.k,
        "autocorrelation_time": time,
        "effective_sample_size": effective,
        "loss_inflation": float(np.mean([chain["loss_inflation"] for chain in chains])),
        "drift": drift,
        "chains": [{**chain, "autocorrelation_time": own} for chain, own in zip(chains, times, strict=True)],
    }
    lines = {
        "a chain has not moved: its steps vanish in the rounding of weights; raise estimator.step": any(
            chain["distance"] == 0 for chain in chains
        ),
        f"the {plan.layout.k:,} kept draws are worth {effective:.0f} independent ones (autocorrelation time {time:.0f}); raise estimator.draws or chains": (
            effective < FEWEST_EFFECTIVE
        ),
        f"a chain is still on its way: its last kept draws are {drift:.0%} further from the trained weights than its first; raise estimator.burn_in": (
            drift > LARGEST_DRIFT
        ),
    }
    return {"sampling": {**found, "warnings": [line for line, applies in lines.items() if applies]}}


def _chain(draws: Sequence[Draw], burn_in: int) -> dict[str, float]:
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
