"""Weights sampled around a model's own, for the estimator `loss_trace`: what the gradients stage does before rows.

A chain is committed in segments, each from where the one before it ended; a task is some of them. The weights that they
keep are stored once, and used for every sample of every split, also for those that arrive another night.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from infra.commits import Measures, Receipt
from infra.events import Stopwatch, peak_memory_bytes
from infra.execution.threads import run_in_compute_thread
from infra.storage.pins import confirm
from infra.storage.storage import Storage
from madcore.sampling.langevin import (
    Chain,
    Langevin,
    SamplingSet,
    check_loss,
    draw,
    flat_weights,
    minibatch,
    place_weights,
)
from pipeline.artifacts.chains import Draw, encode_segment, read_state
from pipeline.config.audit_config import AuditConfig
from pipeline.config.estimators import LossTrace
from pipeline.errors import StageError
from pipeline.planning.chains import ChainTask, Segment, chain_log
from pipeline.planning.plan import HELD_OUT_SAMPLES, ModelPlan
from pipeline.stages.gradients.clean_samples import CleanSamples, read_clean
from pipeline.stages.gradients.loading import load_planned


@dataclass
class _LoadedModel:
    """A model, its trained weights, its sampling set, and the places of the held-out samples."""

    name: str
    model: nn.Module
    anchor: Tensor
    clean: CleanSamples
    losses: Callable[[Tensor], Tensor]
    probe: Tensor


class SamplingWorker:
    """Runs segments of chains; keeps a model and its sampling set loaded while its tasks last."""

    def __init__(self, config: AuditConfig, plans: Mapping[str, ModelPlan]):
        """Load nothing yet: the first task says which model."""
        self._config, self._plans, self._storage = config, plans, Storage(config.root)
        self._device = torch.device("cuda" if config.run.gpus_per_worker > 0 else "cpu")
        self._loaded: _LoadedModel | None = None

    def __call__(self, task: ChainTask) -> Receipt:
        """Compute and commit the segments that are missing; return the receipt of the last."""
        plan = self._plans[task.model]
        log = chain_log(self._storage, plan, task.chain)
        done = log.receipts()
        chain = None if task.before is None else read_state(self._storage, log.attempt_folder(done[task.before.name]))
        for segment in task.segments:
            receipt = done.get(segment.name)
            if receipt is not None:
                chain = read_state(self._storage, log.attempt_folder(receipt))
                continue
            watch = Stopwatch()
            before = chain or Chain.start(task.chain, torch.zeros(0))
            chain, files, left_out = run_in_compute_thread(self._advance, plan, before, segment)
            seconds = watch.seconds
            measures = Measures(
                rows=0,
                seconds=seconds,
                peak_memory_bytes=peak_memory_bytes(),
                computing_seconds=seconds,
                unreadable=left_out,
            )
            confirm(source.file for source in plan.sampling)
            receipt = log.commit(segment.name, files, measures)
        assert receipt is not None
        return receipt

    def _advance(self, plan: ModelPlan, chain: Chain, segment: Segment) -> tuple[Chain, dict[str, bytes], int]:
        """Advance a chain by a segment; returns it, the segment's files, and how many sampling samples are not used."""
        settings, loaded = _settings(plan), self._load(plan)
        langevin, losses = langevin_of(settings), loaded.losses
        kept, draws = list[Tensor](), list[Draw]()
        if chain.steps:
            weights, second_moment = chain.weights.to(self._device), chain.second_moment.to(self._device)
            chain = Chain(chain.number, weights, second_moment, chain.steps)
        else:
            chain = Chain.start(chain.number, loaded.anchor)
            draws.append(self._first_draw(plan, loaded))
        for number in range(segment.start, segment.stop):
            chain, loss = draw(loaded.model, langevin, chain, loaded.anchor, SamplingSet(losses, loaded.clean.samples))
            probe_loss = self._probe_loss(losses, loaded.probe)
            check_loss(langevin, chain, probe_loss, loaded.clean.guessing)
            draws.append(Draw(number + 1, loss, probe_loss, float((chain.weights - loaded.anchor).norm())))
            if number in settings.kept:
                kept.append(chain.weights.cpu())
        return chain, encode_segment(kept, chain, draws), loaded.clean.left_out

    def _first_draw(self, plan: ModelPlan, loaded: _LoadedModel) -> Draw:
        """The draw of the trained weights themselves.

        Raises:
            StageError: they predict the sampling set no better than guessing.
        """
        place_weights(loaded.model, loaded.anchor)
        loss = self._probe_loss(loaded.losses, loaded.probe)
        if not loss <= loaded.clean.guessing:
            raise StageError(
                f"on the sampling set the trained weights have a mean loss of {loss:.3g}, more "
                f"than the {loaded.clean.guessing:.3g} of guessing; check estimator.sampling, its labels, and "
                "data.preprocess"
            )
        return Draw(0, loss, loss, 0.0)

    @torch.no_grad()
    def _probe_loss(self, losses: Callable[[Tensor], Tensor], probe: Tensor) -> float:
        return float(losses(probe).double().mean())

    def _load(self, plan: ModelPlan) -> _LoadedModel:
        if self._loaded is None or self._loaded.name != plan.name:
            self._loaded = None
            model = load_planned(self._config, plan).to(self._device)
            clean, settings = read_clean(self._config, plan), _settings(plan)
            probe = minibatch(settings.seed, -1, 0, clean.samples, HELD_OUT_SAMPLES)
            self._loaded = _LoadedModel(
                plan.name, model, flat_weights(model), clean, clean.losses(model, self._device), probe
            )
        return self._loaded


def langevin_of(estimator: LossTrace) -> Langevin:
    """The sampler's settings."""
    return Langevin(
        preconditioner=estimator.preconditioner,
        gamma=estimator.gamma,
        n_beta=estimator.n_beta,
        step=estimator.step,
        alpha=estimator.alpha,
        eps_rms=estimator.eps_rms,
        batch=estimator.batch,
        seed=estimator.seed,
    )


def _settings(plan: ModelPlan) -> LossTrace:
    assert plan.config.traced is not None
    return plan.config.traced
