"""The numbers of a task's samples, collected batch by batch until they are committed."""

import torch
from torch import Tensor

from madcore import RowLayout
from pipeline.artifacts.rows import to_stored
from pipeline.artifacts.samples import SampleColumns
from pipeline.data.statuses import FLAT, NO_CLASS, NONFINITE, OK, UNREADABLE
from pipeline.inputs.batches import Group, SampleBatch
from pipeline.planning.plan import RowTask
from pipeline.tasks.predictions import Predictions


def label_names(rows: RowTask, place: int, batch: SampleBatch) -> list[str]:
    """Names that the labels of a batch are sampled by: ids, or else rows. `place`: where it begins in its task."""
    return [name or f"{rows.source.key}/{row}" for row, name in enumerate(batch.ids, rows.start + place)]


class TaskResults:
    """A task's results, in the order of its samples; a row without a result stays 0.

    A sample has one row or several; if one of them is not finite, none counts. Results are on the model's device until
    they are settled, and nothing waits for a GPU before.
    """

    def __init__(self, k: int, samples: int, labels: int, device: torch.device):
        """Make room for `labels` rows of k numbers a sample."""
        self._labels, rows = labels, samples * labels
        self.rows, self.scales = torch.zeros(rows, k, device=device), torch.ones(rows, 0, device=device)
        self._predictions = torch.full((rows,), NO_CLASS, dtype=torch.int64, device=device)
        self._confidence, self._norms = torch.zeros(rows, device=device), torch.zeros(rows, device=device)
        self._finite = torch.ones(rows, dtype=torch.bool, device=device)
        self._flat = torch.zeros(rows, dtype=torch.bool, device=device)
        self._ids: list[str] = []
        self._statuses: list[str] = []

    def add(self, batch: SampleBatch) -> int:
        """Add a batch's samples, and return the place of its first."""
        place = len(self._ids) // self._labels
        self._ids += [name for name in batch.ids for _ in range(self._labels)]
        statuses = [f"{UNREADABLE}{reason}" if reason else OK for reason in batch.unreadable]
        self._statuses += [status for status in statuses for _ in range(self._labels)]
        return place

    def fill(self, place: int, rows_rk: Tensor, outcome: Predictions, group: Group) -> None:
        """Fill in the r rows that a group's samples have, those of a sample together.

        Args:
            place: where the group's batch begins.
            rows_rk: float rows; a row with a number that is not finite has a norm that is not.
            outcome: what the model predicts for the samples, and which of them are flat; those have rows of 0.
            group: which samples of the batch they are of.
        """
        labels, rows_rk = self._labels, rows_rk.float()
        places_r = self._each_label((place + group.places.to(rows_rk.device, non_blocking=True)) * labels)
        places_r = places_r + torch.arange(labels, device=rows_rk.device).repeat(len(group.places))
        norms_r = torch.linalg.vector_norm(rows_rk, dim=1, dtype=torch.float64)
        finite_r = self._each_label(torch.isfinite(norms_r).view(-1, labels).all(dim=1) & outcome.finite)
        self._finite[places_r] = finite_r
        counts_r = finite_r
        if outcome.flat is not None:
            self._flat[places_r] = flat_r = finite_r & self._each_label(outcome.flat)
            counts_r = finite_r & ~flat_r
        self.rows[places_r] = rows_rk.masked_fill_(~counts_r.unsqueeze(1), 0.0)
        self._predictions[places_r] = torch.where(finite_r, self._each_label(outcome.predictions), NO_CLASS)
        self._confidence[places_r] = torch.where(finite_r, self._each_label(outcome.confidence), 0.0)
        self._norms[places_r] = torch.where(finite_r, norms_r.float(), 0.0)

    def settle(self, layout: RowLayout, dtype: str) -> None:
        """Bring all to the CPU, rows as they are at rest, and mark samples without a finite gradient, or any."""
        rows, scales = to_stored(self.rows, layout, dtype)
        self.rows, self.scales = rows.cpu(), scales.cpu()
        self._predictions, self._finite = self._predictions.cpu(), self._finite.cpu()
        self._confidence, self._norms = self._confidence.cpu(), self._norms.cpu()
        for status, marked in ((NONFINITE, ~self._finite), (FLAT, self._flat.cpu())):
            for place in torch.nonzero(marked).flatten().tolist():
                self._statuses[place] = status

    def _each_label(self, per_sample: Tensor) -> Tensor:
        return per_sample.repeat_interleave(self._labels) if self._labels > 1 else per_sample

    @property
    def nonfinite(self) -> int:
        """Samples whose gradient or logits are not finite."""
        return self._statuses.count(NONFINITE) // self._labels

    @property
    def unreadable(self) -> int:
        """Samples that could not be read."""
        return sum(status.startswith(UNREADABLE) for status in self._statuses) // self._labels

    def columns(self, start: int) -> SampleColumns:
        """The samples' columns, once for each of their rows; the first sample is row `start` of its source."""
        places = [start + row // self._labels for row in range(len(self._ids))]
        return SampleColumns(self._ids, places, self._predictions, self._confidence, self._norms, self._statuses)
