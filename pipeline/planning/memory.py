"""How much memory a worker will need, from shapes and from one small pass; all numbers in bytes."""

import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from madcore import Measured, RowExtractor, RowLayout, SideLayout
from madcore.measurements import logits_of, run
from madcore.sampling.langevin import requiring_gradients
from madcore.scoring.calibration import calibration_size
from pipeline.artifacts.rows import SCORING_BLOCK
from pipeline.config.curvature import FACTORED
from pipeline.config.schema import ModelConfig
from pipeline.data.sources import Source
from pipeline.planning.recipe import RowRecipe, count_labels, samples_of

PROCESS_BYTES = 600 << 20  # of Python and torch, before any work
SHARES_STORAGE = torch.ops.aten.set_.source_Storage_storage_offset  # of a copied buffer, whatever the batch
EVALUATED_BYTES = 250  # of an audited sample whose truth is known


@dataclass(frozen=True)
class ProjectedMemory:
    """Peak memory of one worker in bytes, per stage; the largest decides whether the plan fits."""

    gradients: int
    curvature: int
    scoring: int
    reporting: int

    @property
    def peak(self) -> int:
        """The largest of the stages."""
        return max(self.gradients, self.curvature, self.scoring, self.reporting)


class _TensorMemory(TorchDispatchMode):
    """Counts the bytes of the live tensors that operations in its context have made, and their peak."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """No: to be skipped by a compiler that nothing here uses, torch would import it, which takes seconds."""
        return False

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak, self._now = 0, 0
        self._alive = dict[int, tuple[weakref.ref[torch.UntypedStorage], int]]()

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
            if id(storage) not in given and func is not SHARES_STORAGE:
                self._count(storage)
        self.peak = max(self.peak, self._now)
        return made

    def _count(self, storage: torch.UntypedStorage) -> None:
        name, size = id(storage), storage.nbytes()
        reference, counted = self._alive.pop(name, (None, 0))
        self._now += size - counted

        def forget(dead: weakref.ref[torch.UntypedStorage]) -> None:
            if name in self._alive and self._alive[name][0] is dead:
                self._now -= self._alive.pop(name)[1]

        known = reference is not None and reference() is storage
        self._alive[name] = (reference if known and reference else weakref.ref(storage, forget)), size


def _storages(tree: object) -> list[torch.UntypedStorage]:
    return [leaf.untyped_storage() for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def pass_bytes(extractor: RowExtractor, sample: Measured) -> int:
    """Peak bytes of the tensors that a batch needs on top of its model, inputs and rows.

    What a kernel allocates inside is not seen. Peaks of the benchmarks' models, measured as resident memory, are at
    most 3 % above it.
    """
    with _TensorMemory() as memory:
        rows = extractor(sample).rows
    peak: int = memory.peak - rows.nbytes
    return peak


def step_bytes(model: nn.Module, sample: Measured) -> int:
    """Peak bytes of the tensors that a batch's loss and gradient need on top of the model, inputs and gradient."""
    with requiring_gradients(model) as parameters, _TensorMemory() as memory:
        loss = sample.measurement(logits_of(run(model, sample.inputs))).sum()
        gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
    peak: int = memory.peak - sum(gradient.nbytes for gradient in gradients if gradient is not None)
    return max(peak, 0)


@dataclass(frozen=True)
class Blocks:
    """Blocks of rows that are read one after the other: the rows of the largest, and how many there are."""

    rows: int = SCORING_BLOCK
    count: int = 1 << 30

    @classmethod
    def of(cls, sources: Iterable[Source], rows_per_task: int, labels: int = 0) -> "Blocks":
        """Of the rows of files, `labels` for each sample; a task's rows make blocks of their own."""
        task = samples_of(rows_per_task, labels) * max(1, labels)
        rows = [max(1, labels) * source.rows for source in sources]
        count = sum(each // task * -(-task // SCORING_BLOCK) + -(-(each % task) // SCORING_BLOCK) for each in rows)
        return cls(min(SCORING_BLOCK, task, max(rows, default=0)), count)


@dataclass(frozen=True)
class Shapes:
    """What the memory of a worker follows from.

    `layout`: of the rows that are scored. `stored_row_size`: numbers of the longest row that is stored.
    `reprojected`: numbers of a stored row that is re-projected to one of the layout as it is read; 0 where rows are
    read as they are stored. `reference`: rows of the reference part, held whitened and as units beside temporaries of
    both. `classes`: means of the reference part's units, with their float64 sums and temporaries. `moments`: numbers
    of each layer's part of the curvature, float64, of which one layer's is factored at a time; none for the identity.
    `screened`: trusted samples whose rows are screened, all at once, in the worst case as one class in float64.
    `labelled_samples`: audited samples whose truth is known, which evaluation holds at once. `scored_at_once`: blocks
    of rows that are scored at the same time, one a thread, if there are so many. `trusted_blocks`, `audited_blocks`:
    those that rows are read in; whatever a block's size, it is scored as one of SCORING_BLOCK rows.

    Where rows are computed:

    `model_bytes`: parameters and buffers; the file's bytes and the tensors are held at once while loading.
    `sample_bytes`: one sample's forward and backward pass, with room for what allocators and kernels add;
    `samples_per_pass` samples of a batch go through it together, and of all of them rows and
    `retained_bytes_per_sample` of inputs and logits are kept. `task_rows`: rows of the largest task; with their
    temporaries they are held four times while they are encoded, and once more by a task that computes meanwhile.
    `batch`: samples per batch, padding included. `overhead_bytes`: what rows need on top of their batches: for the
    fallback, whole gradients and activations of the samples that it takes at a time; for loss traces, weights and
    samples that are held in memory.
    """

    layout: RowLayout
    stored_row_size: int
    reference: int
    classes: int
    moments: tuple[int, ...]
    screened: int
    labelled_samples: int
    reprojected: int = 0
    scored_at_once: int = 1
    trusted_blocks: Blocks = Blocks()
    audited_blocks: Blocks = Blocks()
    model_bytes: int = 0
    sample_bytes: int = 0
    retained_bytes_per_sample: int = 0
    samples_per_pass: int = 0
    task_rows: int = 0
    batch: int = 0
    overhead_bytes: int = 0


def shapes_of_rows(model: ModelConfig, recipe: RowRecipe, sides: SideLayout, samples: int) -> Shapes:
    """What the stages after the gradients need, of rows that are stored.

    Args:
        model: with the settings of the curvature, the score and the calibration.
        recipe: of the stored rows.
        sides: the layout that rows are read in: of all layers of the recipe or of some, at its rank or at a lower one.
        samples: trusted samples that are used.
    """
    reference, audited = samples - calibration_size(samples, model.calibration.fraction), recipe.audited
    labels, tasks = count_labels(model, recipe.classes), recipe.rows_per_task
    curved = (*recipe.trusted, *(audited if model.curvature.transductive else ()))
    used = samples + sum(source.rows for source in audited) if model.curvature.transductive else reference
    return Shapes(
        layout=sides.rows,
        stored_row_size=max(sides.rows.k, sides.stored.k) if model.curvature.kind in FACTORED else sides.rows.k,
        reference=reference,
        classes=recipe.classes,
        moments=moment_sizes(model, sides, max(1, labels) * used),
        screened=samples if model.screened else 0,
        labelled_samples=sum(source.rows for source in audited if "anomalous" in source.truth),
        trusted_blocks=Blocks.of(curved, tasks, labels),
        audited_blocks=Blocks.of(audited, tasks),
    )


def moment_sizes(model: ModelConfig, sides: SideLayout, rows: int) -> tuple[int, ...]:
    """Numbers of each layer's moment of so many curvature rows (see `madcore.curvature`); none for the identity."""
    if model.curvature.kind == "identity":
        return ()
    factored = sides.kept if model.curvature.kind in FACTORED else (None,) * len(sides.kept)
    pairs = zip(sides.rows.sizes, factored, strict=True)
    return tuple(min(rows, size) * size if kept is None else kept[0] ** 2 + kept[1] ** 2 + size for size, kept in pairs)


def batch_bytes(samples: int, samples_per_pass: int, sample_bytes: int, retained_bytes_per_sample: int) -> int:
    """Bytes of a batch: `sample_bytes` for each sample of a pass, `retained_bytes_per_sample` for each of the batch."""
    return min(samples, samples_per_pass) * sample_bytes + samples * retained_bytes_per_sample


def project_memory(shapes: Shapes) -> ProjectedMemory:
    """Projected peaks of a worker."""
    row, stored = 4 * shapes.layout.k, 4 * shapes.stored_row_size
    blocks, factor = 8 * sum(shapes.moments), 4 * 8 * max(shapes.moments, default=0)
    references = 5 * shapes.reference * row + 6 * shapes.classes * row
    retained = shapes.retained_bytes_per_sample + 3 * stored
    batch = batch_bytes(shapes.batch, shapes.samples_per_pass, shapes.sample_bytes, retained)
    gradients = 2 * shapes.model_bytes + batch + shapes.overhead_bytes + 5 * shapes.task_rows * stored
    waiting = shapes.audited_blocks.rows * 9 * row  # six blocks read ahead by three tasks, three that wait
    curvature = max(4 * blocks + factor, blocks // 2 + references, 6 * shapes.screened * row)
    return ProjectedMemory(
        gradients=PROCESS_BYTES + gradients,
        curvature=PROCESS_BYTES
        + curvature
        + _scored_bytes(shapes, shapes.trusted_blocks)
        + shapes.trusted_blocks.rows * 6 * stored,
        scoring=PROCESS_BYTES + blocks // 2 + references + _scored_bytes(shapes, shapes.audited_blocks) + waiting,
        reporting=PROCESS_BYTES + EVALUATED_BYTES * shapes.labelled_samples,
    )


def _scored_bytes(shapes: Shapes, blocks: Blocks) -> int:
    """Bytes of the blocks that are scored at the same time, and of those that are re-projected as they are read."""
    at_once = min(shapes.scored_at_once, blocks.count)
    scored = SCORING_BLOCK * (6 * 4 * shapes.layout.k + 8 * shapes.reference) * at_once
    return scored + blocks.rows * 4 * shapes.reprojected * (12 + 3 * at_once)
