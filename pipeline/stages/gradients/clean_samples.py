"""The sampling set in memory, as minibatches of a chain."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from madcore import CrossEntropy, Measured, TokenBatch, completion_loss
from madcore.measurements import logits_of, run, runs_channels_last
from pipeline.config.audit_config import AuditConfig
from pipeline.data.batches import TextInputs
from pipeline.data.texts import Text, read_texts
from pipeline.data.truth import UNKNOWN, read_truth
from pipeline.errors import StageError
from pipeline.planning.plan import ModelPlan


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


def read_clean(config: AuditConfig, plan: ModelPlan) -> CleanSamples:
    """The sampling set, in memory.

    Raises:
        StageError: none of its samples can be used.
    """
    clean = _texts(config, plan) if plan.config.is_text else _images(config, plan)
    if not clean.samples:
        raise StageError(
            f"model {plan.name}: none of the {_total(plan):,} samples of estimator.sampling is readable and labelled"
        )
    return clean


def _images(config: AuditConfig, plan: ModelPlan) -> CleanSamples:
    inputs, labels = list[Tensor](), list[Tensor]()
    for source in plan.sampling:
        known, start = torch.from_numpy(read_truth(source, 0, source.rows).label), 0
        for batch in plan.inputs.read(plan.config, source, range(source.rows), config.run.batch_size):
            for group in batch.groups:
                own = known[start + group.places]
                usable = own != UNKNOWN
                if int(own.max()) >= plan.classes:
                    raise StageError(
                        f"model {plan.name}: {source.file.name} has the label {int(own.max())}, and the model's {plan.classes} classes are 0 to "
                        f"{plan.classes - 1}; check the labels of estimator.sampling"
                    )
                assert isinstance(group.measured.inputs, Tensor)
                inputs.append(group.measured.inputs[: len(own)][usable])
                labels.append(own[usable])
            start += len(batch.ids)
    images, classes = (
        (torch.cat(inputs), torch.cat(labels)) if inputs else (torch.zeros(0), torch.zeros(0, dtype=torch.int64))
    )
    return CleanSamples(
        lambda indices: Measured(images[indices], CrossEntropy(classes[indices])),
        len(classes),
        math.log(plan.classes),
        _total(plan) - len(classes),
    )


def _texts(config: AuditConfig, plan: ModelPlan) -> CleanSamples:
    assert isinstance(plan.inputs, TextInputs)
    texts = list[Text]()
    for source in plan.sampling:
        for batch in read_texts(source, 0, source.rows, plan.inputs.limits, config.run.batch_size):
            texts += batch.texts

    def some(indices: Tensor) -> Measured:
        chosen = [texts[index] for index in indices.tolist()]
        tokens = TokenBatch.of(
            [torch.from_numpy(text.ids) for text in chosen], [text.completion_start for text in chosen]
        )
        return Measured(tokens.inputs, completion_loss(tokens))

    emitted = sum(len(text.ids) - text.completion_start for text in texts) / max(1, len(texts))
    return CleanSamples(some, len(texts), math.log(plan.inputs.limits.vocabulary) * emitted, _total(plan) - len(texts))


def _total(plan: ModelPlan) -> int:
    return sum(source.rows for source in plan.sampling)
