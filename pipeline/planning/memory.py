"""How much memory a worker will need, from shapes and from one small pass; all numbers in bytes."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

from madcore import Measured, RowExtractor, RowLayout, SideLayout
from madcore.measurements import logits_of, run
from madcore.sampling.langevin import requiring_gradients
from pipeline.artifacts.rows import SCORING_BLOCK
from pipeline.config.curvature import FACTORED
from pipeline.config.schema import ModelConfig


def moments(model: ModelConfig, sides: SideLayout, rows: int) -> tuple[int, ...]:
    """How many numbers a layer's moment has, of so many rows that the curvature is fitted on (see `madcore.curvature`)."""
    if model.curvature.kind == "identity":
        return ()
    factored = sides.kept if model.curvature.kind in FACTORED else (None,) * len(sides.kept)
    pairs = zip(sides.rows.sizes, factored, strict=True)
    return tuple(min(rows, size) * size if kept is None else kept[0] ** 2 + kept[1] ** 2 + size for size, kept in pairs)


PROCESS_BYTES = 600 << 20


JUDGED_BYTES = 250


@dataclass(frozen=True)
class ProjectedMemory:
    """Peak memory of one worker, per stage; the largest decides whether the plan fits."""

    gradients: int
    curvature: int
    scoring: int
    reporting: int

    @property
    def peak(self) -> int:
        """The largest of the stages."""
        return max(self.gradients, self.curvature, self.scoring, self.reporting)


class _TensorMemory(TorchDispatchMode):
    """Counts the bytes of all tensors that operations inside have made and that are still alive, and their peak."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak: int = 0
        self._alive = WeakIdKeyDictionary()

    def __torch_dispatch__(
        self,
        func: Callable[..., object],
        types: Sequence[type],
        args: tuple[object, ...] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        given = {id(storage) for storage in _storages((args, kwargs))}
        made = func(*args, **(kwargs or {}))
        for storage in _storages(made):
            if id(storage) not in given:
                self._alive[storage] = storage.nbytes()
        self.peak = max(self.peak, sum(self._alive.values()))
        return made


def _storages(tree: object) -> list[torch.UntypedStorage]:
    return [leaf.untyped_storage() for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def pass_bytes(extractor: RowExtractor, sample: Measured) -> int:
    """Peak bytes of the tensors that a batch needs above its model, inputs and rows; what a kernel allocates within is not seen.

    Peaks of the benchmarks' models, measured as resident memory, are at most 3 % above it.
    """
    with _TensorMemory() as living:
        rows = extractor(sample).rows
    peak: int = living.peak - rows.nbytes
    return peak


def step_bytes(model: nn.Module, sample: Measured) -> int:
    """Peak bytes of the tensors that a batch's loss and its gradient need above the model, its inputs, and the gradient."""
    with requiring_gradients(model) as parameters, _TensorMemory() as living:
        loss = sample.measurement(logits_of(run(model, sample.inputs))).sum()
        gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
    peak: int = living.peak - sum(gradient.nbytes for gradient in gradients if gradient is not None)
    return max(peak, 0)


@dataclass(frozen=True)
class Shapes:
    """What memory follows from.

    `model_bytes`: parameters and buffers; the file's bytes and the tensors are held at once while loading.
    `sample_bytes`: one sample's forward and backward pass, with room for what allocators and kernels add; `at_once` samples of a batch
    go through it together, and of all of them rows and `retained_bytes_per_sample` of inputs and logits are kept.
    `task_rows`: rows of the largest task; with their temporaries they are held four times while they are encoded, and once more
    by a task that computes meanwhile.
    `batch`: samples per batch, padding included.
    `reference`: rows of the reference part, held whitened and as units beside temporaries of both.
    `classes`: means of the reference part's units, with their float64 sums and temporaries.
    `stored_row_size`: numbers of the longest row that is stored.
    `moments`: numbers of each layer's part of the curvature, float64, of which one layer's is factored at a time; none for the identity.
    `screened`: trusted samples whose rows are screened, all at once, in the worst case as one class in float64.
    `labelled_samples`: audited samples whose truth is known, which evaluation holds at once.
    `scored_at_once`: blocks of rows that are scored at the same time, one a thread.
    `reprojected`: numbers of a stored row that is re-projected to one of the layout as it is read; 0 where rows are read as they are stored.
    `overhead_bytes`: what rows need beside their batches: of the fallback, whole gradients and activations of the samples that it takes at a time; of
    traces, weights and samples that are held in memory.
    """

    layout: RowLayout
    stored_row_size: int
    model_bytes: int
    sample_bytes: int
    retained_bytes_per_sample: int
    at_once: int
    task_rows: int
    batch: int
    reference: int
    classes: int
    moments: tuple[int, ...]
    screened: int
    labelled_samples: int
    scored_at_once: int = 1
    reprojected: int = 0
    overhead_bytes: int = 0


def batch_bytes(samples: int, at_once: int, sample_bytes: int, retained_bytes_per_sample: int) -> int:
    """What a batch takes, of which `at_once` samples at a time take `sample_bytes` each, and `retained_bytes_per_sample` are kept of each."""
    return min(samples, at_once) * sample_bytes + samples * retained_bytes_per_sample


def project_memory(shapes: Shapes) -> ProjectedMemory:
    """Projected peaks of a worker."""
    row, stored = 4 * shapes.layout.k, 4 * shapes.stored_row_size
    blocks, factor = 8 * sum(shapes.moments), 4 * 8 * max(shapes.moments, default=0)
    references = 5 * shapes.reference * row + 6 * shapes.classes * row
    batch = batch_bytes(
        shapes.batch, shapes.at_once, shapes.sample_bytes, shapes.retained_bytes_per_sample + 3 * stored
    )
    gradients = PROCESS_BYTES + 2 * shapes.model_bytes + batch + shapes.overhead_bytes + 5 * shapes.task_rows * stored
    scored = SCORING_BLOCK * (
        6 * row + 8 * shapes.reference
    ) * shapes.scored_at_once + SCORING_BLOCK * 4 * shapes.reprojected * (12 + 3 * shapes.scored_at_once)
    scoring = (
        PROCESS_BYTES + blocks // 2 + references + scored + SCORING_BLOCK * 9 * row
    )  # six blocks read ahead by three tasks, three that wait
    curvature = (
        PROCESS_BYTES
        + max(4 * blocks + factor, blocks // 2 + references, 6 * shapes.screened * row)
        + scored
        + SCORING_BLOCK * 6 * stored
    )
    return ProjectedMemory(gradients, curvature, scoring, PROCESS_BYTES + JUDGED_BYTES * shapes.labelled_samples)
