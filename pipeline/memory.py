"""How much memory a worker will need, from shapes alone; all numbers in bytes."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from madcore import RowLayout

PROCESS_BYTES = 600 << 20
SCORING_BLOCK = 512


@dataclass(frozen=True)
class ProjectedMemory:
    """Peak memory of one worker, per stage; the largest decides whether the plan fits."""

    gradients: int
    curvature: int
    scoring: int

    @property
    def peak(self) -> int:
        """The largest of the stages."""
        return max(self.gradients, self.curvature, self.scoring)


def activation_bytes(model: nn.Module, sample: Tensor) -> int:
    """Bytes of all module outputs for one sample (1, ...): what a backward pass may have to keep, at most."""
    total = 0

    def count(module: nn.Module, args: tuple[object, ...], output: object) -> None:
        nonlocal total
        total += output.numel() * output.element_size() if isinstance(output, Tensor) else 0

    handles = [module.register_forward_hook(count) for module in model.modules() if not list(module.children())]
    try:
        with torch.no_grad():
            model(sample)
    finally:
        for handle in handles:
            handle.remove()
    return total


def project_memory(model_bytes: int, sample_bytes: int, layout: RowLayout, task_rows: int, batch: int, reference: int) -> ProjectedMemory:
    """Projected peaks.

    Args:
        model_bytes: of parameters and buffers; the file's bytes and the tensors are held at once while loading.
        sample_bytes: activations of one sample; forward values, their gradients and one layer's workspace are counted.
        layout: of the rows.
        task_rows: rows of the largest task; its rows are held as float16 and once more as encoded bytes.
        batch: samples per batch.
        reference: rows of the reference part; whitened and unit rows are held by each scoring worker.
    """
    row = 4 * layout.k
    blocks = 8 * sum(size * size for size in layout.sizes)
    factor = 4 * 8 * max(layout.sizes) ** 2
    references = 2 * reference * row
    gradients = PROCESS_BYTES + 2 * model_bytes + 3 * batch * sample_bytes + 3 * batch * row + 4 * task_rows * row // 2
    scoring = PROCESS_BYTES + blocks // 2 + references + SCORING_BLOCK * (6 * row + 8 * reference)
    curvature = PROCESS_BYTES + 2 * blocks + factor + references + SCORING_BLOCK * 6 * row
    return ProjectedMemory(gradients, curvature, scoring)
