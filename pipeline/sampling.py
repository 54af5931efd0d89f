"""Weights sampled around a model's own, for the estimator `loss_trace`: the part of the gradients stage that comes before its rows.

A task is a segment of a chain: so many draws, from where the segment before it ended. What it keeps is stored once and met by every sample
of every split, also by those that arrive another night.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from infra.commits import Measures, Receipt
from infra.computing import compute
from infra.events import Stopwatch, peak_memory_bytes
from infra.storage import Storage
from madcore import CrossEntropy, Measured, TokenBatch, completion_loss
from madcore.measurements import logits_of, run, runs_channels_last
from madcore.sampling import Chain, Langevin, SamplingSet, check_loss, draw, flat_weights, minibatch, place_weights
from pipeline.artifacts.logs import rows_log
from pipeline.artifacts.snapshots import Draw, encode_segment, read_state
from pipeline.config import AuditConfig
from pipeline.errors import StageError
from pipeline.gradients import load_planned
from pipeline.inputs import TextInputs
from pipeline.plan import SNAPSHOT_BYTES, ModelPlan
from pipeline.schema import LossTrace
from pipeline.sources.datasets import MISSING_CLASS, read_truth

SEGMENT_DRAWS = 500
PROBE = 256


@dataclass(frozen=True)
class SegmentTask:
    """Draws [start, stop) of a chain, after the segment in the folder `previous`, "" for the first."""

    model: str
    chain: int
    start: int
    stop: int
    previous: str = ""

    @property
    def name(self) -> str:
        """The task's name in its chain's commit log."""
        return f"{self.start:012d}-{self.stop:012d}"


def segments(plan: ModelPlan, settings: LossTrace) -> list[range]:
    """The draws of a chain, cut so that what a segment keeps fits in memory and what a killed one loses is little."""
    length = min(SEGMENT_DRAWS, max(1, SNAPSHOT_BYTES // (4 * plan.weights)) * settings.thin)
    return [range(start, min(start + length, settings.draws)) for start in range(0, settings.draws, length)]


def keeps(settings: LossTrace, draws: range) -> bool:
    """Whether any of a segment's draws is kept."""
    return any(number in settings.kept for number in draws)


def chain_log_key(chain: int) -> str:
    """Where a chain is, among the sources of a row key."""
    return f"chain-{chain:06d}"


@dataclass(frozen=True)
class CleanSamples:
    """The readable, labelled samples of the sampling set: a batch of some of them, how many there are, the loss of guessing, and how many others there are."""

    some: Callable[[Tensor], Measured]
    samples: int
    guessing: float
    left_out: int

    def losses(self, model: nn.Module, device: torch.device) -> Callable[[Tensor], Tensor]:
        """What maps indices (b,) to losses (b,) of the model as it stands."""
        faster = runs_channels_last(model, self.some(torch.zeros(1, dtype=torch.int64)).to(device))

        def losses(indices: Tensor) -> Tensor:
            batch = self.some(indices).to(device)
            batch = batch.channels_last() if faster else batch
            return batch.measurement(logits_of(run(model, batch.inputs)))

        return losses


@dataclass
class _Loaded:
    name: str
    model: nn.Module
    anchor: Tensor
    clean: CleanSamples
    losses: Callable[[Tensor], Tensor]
    probe: Tensor


class SamplingWorker:
    """Runs segments; keeps a model and its sampling set loaded while its tasks last."""

    def __init__(self, config: AuditConfig, plans: Mapping[str, ModelPlan]):
        """Loads nothing yet: the first task says which model."""
        self._config, self._plans, self._storage = config, plans, Storage(config.root)
        self._device = torch.device("cuda" if config.run.gpus_per_worker > 0 else "cpu")
        self._loaded: _Loaded | None = None

    def __call__(self, task: SegmentTask) -> Receipt:
        """Computes and commits one segment."""
        watch, plan = Stopwatch(), self._plans[task.model]
        files = compute(self._files, plan, task)
        seconds, left_out = watch.seconds, self._load(plan).clean.left_out
        measures = Measures(rows=0, seconds=seconds, peak_memory_bytes=peak_memory_bytes(), computing_seconds=seconds, unreadable=left_out)
        return rows_log(self._storage, plan.name, plan.snapshots_key, chain_log_key(task.chain)).commit(task.name, files, measures)

    def _files(self, plan: ModelPlan, task: SegmentTask) -> dict[str, bytes]:
        settings, loaded = _settings(plan), self._load(plan)
        langevin, losses = settings_of(settings), loaded.losses
        chain, kept, draws = Chain.start(task.chain, loaded.anchor), list[Tensor](), list[Draw]()
        if task.previous:
            stored = read_state(self._storage, task.previous)
            chain = Chain(stored.number, stored.weights.to(self._device), stored.second_moment.to(self._device), stored.steps)
        else:
            place_weights(loaded.model, loaded.anchor)
            at_anchor = self._probe_loss(losses, loaded.probe)
            if not at_anchor <= loaded.clean.guessing:
                raise StageError(
                    f"model {plan.name}: on the sampling set the trained weights have a mean loss of {at_anchor:.3g}, more than the "
                    f"{loaded.clean.guessing:.3g} of guessing; check estimator.sampling, its labels, and data.preprocess"
                )
            draws.append(Draw(0, at_anchor, at_anchor, 0.0))
        for number in range(task.start, task.stop):
            chain, loss = draw(loaded.model, langevin, chain, loaded.anchor, SamplingSet(losses, loaded.clean.samples))
            probe_loss = self._probe_loss(losses, loaded.probe)
            check_loss(langevin, chain, probe_loss, loaded.clean.guessing)
            draws.append(Draw(number + 1, loss, probe_loss, float((chain.weights - loaded.anchor).norm())))
            if number in settings.kept:
                kept.append(chain.weights.cpu())
        return encode_segment(kept, chain, draws)

    @torch.no_grad()
    def _probe_loss(self, losses: Callable[[Tensor], Tensor], probe: Tensor) -> float:
        return float(losses(probe).double().mean())

    def _load(self, plan: ModelPlan) -> _Loaded:
        if self._loaded is None or self._loaded.name != plan.name:
            self._loaded = None
            model = load_planned(self._config, plan).to(self._device)
            clean, settings = read_clean(self._config, plan), _settings(plan)
            probe = minibatch(settings.seed, -1, 0, clean.samples, PROBE)
            self._loaded = _Loaded(plan.name, model, flat_weights(model), clean, clean.losses(model, self._device), probe)
        return self._loaded


def settings_of(estimator: LossTrace) -> Langevin:
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


def read_clean(config: AuditConfig, plan: ModelPlan) -> CleanSamples:
    """The sampling set, in memory.

    Raises:
        StageError: none of its samples can be used.
    """
    clean = _texts(config, plan) if plan.config.is_text else _images(config, plan)
    if not clean.samples:
        raise StageError(f"model {plan.name}: none of the {_total(plan):,} samples of estimator.sampling is readable and labelled")
    return clean


def _images(config: AuditConfig, plan: ModelPlan) -> CleanSamples:
    inputs, labels = list[Tensor](), list[Tensor]()
    for source in plan.sampling:
        known, start = torch.from_numpy(read_truth(source, 0, source.rows).label), 0
        for batch in plan.inputs.read(plan.config, source, range(source.rows), config.run.batch_size):
            for group in batch.groups:
                own = known[start + group.places]
                usable = (own != MISSING_CLASS) & (own < plan.classes)
                assert isinstance(group.measured.inputs, Tensor)
                inputs.append(group.measured.inputs[: len(own)][usable])
                labels.append(own[usable])
            start += len(batch.ids)
    images, classes = (torch.cat(inputs), torch.cat(labels)) if inputs else (torch.zeros(0), torch.zeros(0, dtype=torch.int64))
    return CleanSamples(
        lambda indices: Measured(images[indices], CrossEntropy(classes[indices])), len(classes), math.log(plan.classes), _total(plan) - len(classes)
    )


def _texts(config: AuditConfig, plan: ModelPlan) -> CleanSamples:
    texts = list[tuple[Tensor, int]]()
    for source in plan.sampling:
        for batch in plan.inputs.read(plan.config, source, range(source.rows), config.run.batch_size):
            for group in batch.groups:
                assert group.tokens is not None
                each = zip(group.tokens.ids, group.tokens.lengths.tolist(), group.tokens.completion_starts.tolist(), strict=True)
                texts += [(ids[:length], start) for ids, length, start in each]

    def some(indices: Tensor) -> Measured:
        chosen = [texts[index] for index in indices.tolist()]
        tokens = TokenBatch.of([ids for ids, _ in chosen], [start for _, start in chosen])
        return Measured(tokens.inputs, completion_loss(tokens))

    emitted = sum(len(ids) - start for ids, start in texts) / max(1, len(texts))
    assert isinstance(plan.inputs, TextInputs)
    return CleanSamples(some, len(texts), math.log(plan.inputs.limits.vocabulary) * emitted, _total(plan) - len(texts))


def _total(plan: ModelPlan) -> int:
    return sum(source.rows for source in plan.sampling)
