"""Rows of the estimator `loss_trace`: the losses of a task's samples under each of the stored snapshots of weights."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from madcore import CrossEntropy, Measured, RowLayout, completion_loss
from madcore.extraction.forward_pass import exact_float32
from madcore.measurements import logits_of, run, runs_channels_last
from madcore.sampling.langevin import place_weights
from madcore.scoring.flat import flat_traces
from pipeline.inputs.batches import TRACED_AT_ONCE, Group
from pipeline.tasks.predictions import Predictions


@dataclass(frozen=True)
class GroupTraces:
    """The rows (r, k) of a group's samples, and what the trained weights predict for them."""

    rows: Tensor
    outcome: Predictions


@torch.no_grad()
def compute_traces(
    model: nn.Module, anchor: Tensor, groups: Sequence[Group], snapshots: Iterable[Tensor], layout: RowLayout
) -> list[GroupTraces]:
    """Each sample's loss against its own prediction at the trained weights, under every snapshot.

    Args:
        model: in eval mode; its weights are `anchor` again afterwards.
        anchor: the trained weights, (P,).
        groups: samples in the order in which they are read. All stay in memory, so that each snapshot is read once.
        snapshots: as many as a row has numbers, (P,) each, on any device.
        layout: of the rows: a block for each chain.
    """
    device = anchor.device
    place_weights(model, anchor)
    outcomes = list[Predictions]()
    measured = list[Measured]()
    with exact_float32(device):
        for group in groups:
            batch = group.measured.to(device)
            batch = batch.channels_last() if runs_channels_last(model, batch) else batch
            logits = torch.cat([logits_of(run(model, part.inputs)).float() for _, part in batch.parts(TRACED_AT_ONCE)])
            outcomes.append(group.predict(logits[: len(group.places)]))
            own = CrossEntropy(logits.argmax(dim=1)) if group.tokens is None else completion_loss(group.tokens)
            measured.append(Measured(batch.inputs, own))
        rows = [torch.zeros(batch.samples, layout.k, device=device) for batch in measured]
        for draw, snapshot in enumerate(snapshots):
            place_weights(model, snapshot.to(device))
            for own_rows, batch in zip(rows, measured, strict=True):
                for place, part in batch.parts(TRACED_AT_ONCE):
                    own_rows[place, draw] = part.measurement(logits_of(run(model, part.inputs))).float()
    place_weights(model, anchor)
    traces = [own[: len(group.places)] for own, group in zip(rows, groups, strict=True)]
    return [
        GroupTraces(own, replace(outcome, flat=flat_traces(own, layout)))
        for own, outcome in zip(traces, outcomes, strict=True)
    ]
