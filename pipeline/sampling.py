"""Weights sampled around a model's own, for the estimator `loss_trace`: the part of the gradients stage that comes before its rows.

A chain is committed in segments, each from where the one before it ended; a task is some of them. What they keep is stored once and met by
every sample of every split, also by those that arrive another night.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from infra.commits import CommitLog, Measures, Receipt
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
from pipeline.estimators import LossTrace
from pipeline.gradients import load_planned
from pipeline.inputs import TextInputs
from pipeline.plan import PROBE, SNAPSHOT_BYTES, ModelPlan
from pipeline.sources.datasets import MISSING_CLASS, read_truth
from pipeline.sources.texts import Text, read_texts

TASK_DRAWS = 500


@dataclass(frozen=True)
class Segment:
    """Draws [start, stop) of a chain, the first draw being 0."""

    start: int
    stop: int

    @property
    def name(self) -> str:
        """Its name in its chain's commit log."""
        return f"{self.start:012d}-{self.stop:012d}"

    def keeps(self, settings: LossTrace) -> bool:
        """Whether any of its draws is kept."""
        return any(number in settings.kept for number in range(self.start, self.stop))


@dataclass(frozen=True)
class ChainTask:
    """Consecutive segments of a chain, which goes on from the one `before` them, None at its beginning."""

    model: str
    chain: int
    segments: tuple[Segment, ...]
    before: Segment | None = None


def segments(plan: ModelPlan, settings: LossTrace) -> list[Segment]:
    """A chain's draws, cut where no other number of draws would cut them differently: what a segment keeps fits in memory, and a killed one loses little."""
    length = segment_length(plan, settings)
    return [Segment(start, min(start + length, settings.draws)) for start in range(0, settings.draws, length)]


def segment_length(plan: ModelPlan, settings: LossTrace) -> int:
    """Draws of a whole segment."""
    return min(TASK_DRAWS, max(1, SNAPSHOT_BYTES // (4 * plan.weights)) * settings.thin)


def chain_tasks(plan: ModelPlan, settings: LossTrace, chain: int) -> list[ChainTask]:
    """The tasks of a chain, in order: of so many segments that loading a model and the sampling set counts for little."""
    own, together = segments(plan, settings), max(1, TASK_DRAWS // segment_length(plan, settings))
    return [ChainTask(plan.name, chain, tuple(own[first : first + together]), own[first - 1] if first else None) for first in range(0, len(own), together)]


def chain_log(storage: Storage, plan: ModelPlan, chain: int) -> CommitLog:
    """Where a chain's segments are committed: among the sources of a row key."""
    return rows_log(storage, plan.name, plan.snapshots_key, f"chain-{chain:06d}")


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

    def __call__(self, task: ChainTask) -> Receipt:
        """Computes and commits the segments that are missing; the receipt of the last."""
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
            chain, files, left_out = compute(self._advanced, plan, chain or Chain.start(task.chain, torch.zeros(0)), segment)
            seconds = watch.seconds
            measures = Measures(rows=0, seconds=seconds, peak_memory_bytes=peak_memory_bytes(), computing_seconds=seconds, unreadable=left_out)
            receipt = log.commit(segment.name, files, measures)
        assert receipt is not None
        return receipt

    def _advanced(self, plan: ModelPlan, chain: Chain, segment: Segment) -> tuple[Chain, dict[str, bytes], int]:
        """A chain after a segment, the segment's files, and how many samples of the sampling set cannot be used."""
        settings, loaded = _settings(plan), self._load(plan)
        langevin, losses = settings_of(settings), loaded.losses
        kept, draws = list[Tensor](), list[Draw]()
        if chain.steps:
            chain = Chain(chain.number, chain.weights.to(self._device), chain.second_moment.to(self._device), chain.steps)
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

    def _first_draw(self, plan: ModelPlan, loaded: _Loaded) -> Draw:
        """The trained weights themselves.

        Raises:
            StageError: they know the sampling set no better than by guessing.
        """
        place_weights(loaded.model, loaded.anchor)
        loss = self._probe_loss(loaded.losses, loaded.probe)
        if not loss <= loaded.clean.guessing:
            raise StageError(
                f"model {plan.name}: on the sampling set the trained weights have a mean loss of {loss:.3g}, more than the "
                f"{loaded.clean.guessing:.3g} of guessing; check estimator.sampling, its labels, and data.preprocess"
            )
        return Draw(0, loss, loss, 0.0)

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
                usable = own != MISSING_CLASS
                if int(own.max()) >= plan.classes:
                    raise StageError(
                        f"model {plan.name}: {source.file.name} has the label {int(own.max())}, and the model's {plan.classes} classes are 0 to "
                        f"{plan.classes - 1}; check the labels of estimator.sampling"
                    )
                assert isinstance(group.measured.inputs, Tensor)
                inputs.append(group.measured.inputs[: len(own)][usable])
                labels.append(own[usable])
            start += len(batch.ids)
    images, classes = (torch.cat(inputs), torch.cat(labels)) if inputs else (torch.zeros(0), torch.zeros(0, dtype=torch.int64))
    return CleanSamples(
        lambda indices: Measured(images[indices], CrossEntropy(classes[indices])), len(classes), math.log(plan.classes), _total(plan) - len(classes)
    )


def _texts(config: AuditConfig, plan: ModelPlan) -> CleanSamples:
    assert isinstance(plan.inputs, TextInputs)
    texts = list[Text]()
    for source in plan.sampling:
        for batch in read_texts(source, 0, source.rows, plan.inputs.limits, config.run.batch_size):
            texts += batch.texts

    def some(indices: Tensor) -> Measured:
        chosen = [texts[index] for index in indices.tolist()]
        tokens = TokenBatch.of([torch.from_numpy(text.ids) for text in chosen], [text.completion_start for text in chosen])
        return Measured(tokens.inputs, completion_loss(tokens))

    emitted = sum(len(text.ids) - text.completion_start for text in texts) / max(1, len(texts))
    return CleanSamples(some, len(texts), math.log(plan.inputs.limits.vocabulary) * emitted, _total(plan) - len(texts))


def _total(plan: ModelPlan) -> int:
    return sum(source.rows for source in plan.sampling)
