"""The sampling set in memory, as minibatches of a chain."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from madcore import CrossEntropy, Inputs, Measured, completion_loss
from madcore.measurements import logits_of, run, runs_channels_last
from pipeline.config.audit_config import AuditConfig
from pipeline.data.sources import Source
from pipeline.data.texts.reading import read_texts
from pipeline.data.texts.rows import Text
from pipeline.data.truth import UNKNOWN, read_truth
from pipeline.errors import StageError
from pipeline.inputs.batches import chosen, joined
from pipeline.inputs.tokens import TextInputs, token_batch
from pipeline.planning.plan import ModelPlan


@dataclass(frozen=True)
class CleanSamples:
    """The readable, labelled samples of the sampling set.

    `batch`: makes a batch of those at some indices. `samples`: how many there are. `guessing`: the loss of guessing.
    `left_out`: how many other samples the set has.
    """

    batch: Callable[[Tensor], Measured]
    samples: int
    guessing: float
    left_out: int

    def losses(self, model: nn.Module, device: torch.device) -> Callable[[Tensor], Tensor]:
        """The function from indices (b,) to losses (b,) under the model's current weights."""
        faster = runs_channels_last(model, self.batch(torch.zeros(1, dtype=torch.int64)).to(device))

        def losses(indices: Tensor) -> Tensor:
            batch = self.batch(indices).to(device)
            batch = batch.channels_last() if faster else batch
            return batch.measurement(logits_of(run(model, batch.inputs)))

        return losses


def read_clean(config: AuditConfig, plan: ModelPlan) -> CleanSamples:
    """Read the sampling set into memory.

    Raises:
        StageError: none of its samples can be used.
    """
    clean = _texts(config, plan) if plan.config.is_text else _labelled(config, plan)
    if not clean.samples:
        raise StageError(f"none of the {_total(plan):,} samples of estimator.sampling is readable and labelled")
    return clean


def _labelled(config: AuditConfig, plan: ModelPlan) -> CleanSamples:
    inputs, labels = list[Inputs](), list[Tensor]()
    for source in plan.sampling:
        known, start = torch.from_numpy(read_truth(source, 0, source.rows, plan.class_names).label), 0
        for batch in plan.inputs.read(plan.config, source, range(source.rows), config.run.batch_size):
            for group in batch.groups:
                own = known[start + group.places]
                usable = own != UNKNOWN
                _check_label(plan, source, int(own.max()))
                inputs.append(chosen(group.measured.inputs, torch.nonzero(usable).flatten()))
                labels.append(own[usable])
            start += len(batch.ids)
    samples = joined(inputs) if inputs else torch.zeros(0)
    classes = torch.cat(labels) if labels else torch.zeros(0, dtype=torch.int64)
    return CleanSamples(
        lambda indices: Measured(chosen(samples, indices), CrossEntropy(classes[indices])),
        len(classes),
        math.log(plan.classes),
        _total(plan) - len(classes),
    )


def _check_label(plan: ModelPlan, source: Source, largest: int) -> None:
    """Refuse a file with a label that is no class of the model."""
    if largest >= plan.classes:
        raise StageError(
            f"{source.file.name} has the label {largest}, and the model's {plan.classes} classes "
            f"are 0 to {plan.classes - 1}; check the labels of estimator.sampling"
        )


def _texts(config: AuditConfig, plan: ModelPlan) -> CleanSamples:
    assert isinstance(plan.inputs, TextInputs)
    texts = list[Text]()
    for source in plan.sampling:
        for batch in read_texts(source, 0, source.rows, plan.inputs.limits, config.run.batch_size):
            texts += batch.texts

    def batch_of(indices: Tensor) -> Measured:
        tokens = token_batch([texts[index] for index in indices.tolist()])
        return Measured(tokens.inputs, completion_loss(tokens))

    emitted = sum(int(text.measured.sum()) for text in texts) / max(1, len(texts))
    guessing = math.log(plan.inputs.limits.vocabulary) * emitted
    return CleanSamples(batch_of, len(texts), guessing, _total(plan) - len(texts))


def _total(plan: ModelPlan) -> int:
    return sum(source.rows for source in plan.sampling)
