"""How much memory a worker will need, from shapes alone; all numbers in bytes."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from madcore import Measured, RowLayout
from madcore.measurements import logits_of, run

PROCESS_BYTES = 600 << 20
SCORING_BLOCK = 512
JUDGED_BYTES = 220


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


def saved_bytes(model: nn.Module, sample: Measured) -> int:
    """Bytes that autograd keeps of one sample's forward pass for its backward pass, the model's own tensors not counted.

    Module outputs are not enough of a language model: attention and the measurement keep what no module returns.
    """
    own = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        logits = logits_of(run(model, sample.inputs))
        value = sample.measurement(logits)  # alive until all is counted, so that no storage is two tensors' in turn
    return sum(kept.values()) + logits.nbytes + value.nbytes


@dataclass(frozen=True)
class TextBytes:
    """Memory of a text's forward and backward pass: so much a token, and, where attention's kernel keeps scores, a pair of tokens."""

    per_token: float
    per_pair: float

    @classmethod
    def fitted(cls, shorter: tuple[int, int], longer: tuple[int, int]) -> "TextBytes":
        """Through two measurements, (tokens, bytes) each; what does not grow with a text counts as if it did."""
        (short, few), (long, many) = shorter, longer
        slope = (many / long - few / short) / max(1, long - short)
        return cls(many / long - slope * long, slope) if slope > 0 else cls(max(few / short, many / long), 0.0)

    def of(self, length: int) -> int:
        """Bytes of a text of `length` tokens, at least 1."""
        return max(1, round(self.per_token * length + self.per_pair * length**2))


@dataclass(frozen=True)
class Shapes:
    """What memory follows from.

    `model_bytes`: parameters and buffers; the file's bytes and the tensors are held at once while loading.
    `sample_bytes`: one sample's forward and backward pass: of images, activations, their gradients and one layer's workspace.
    `task_rows`: rows of the largest task; with their temporaries they are held four times while they are encoded, and once more
    by a task that computes meanwhile.
    `batch`: samples per batch, padding included.
    `reference`: rows of the reference part, held whitened and as units beside temporaries of both.
    `classes`: means of the reference part's units, with their float64 sums and temporaries.
    `whitened`: whether there is a curvature, with float64 blocks and one layer's factorisation at a time.
    `judged`: audited samples whose truth is known, which evaluation holds at once.
    `rerun`: whole gradients and activations of the samples that the fallback takes at a time.
    """

    layout: RowLayout
    model_bytes: int
    sample_bytes: int
    task_rows: int
    batch: int
    reference: int
    classes: int
    whitened: bool
    judged: int
    rerun: int = 0


def project_memory(shapes: Shapes) -> ProjectedMemory:
    """Projected peaks of a worker."""
    row = 4 * shapes.layout.k
    blocks = 8 * sum(size * size for size in shapes.layout.sizes) if shapes.whitened else 0
    factor = 4 * 8 * max(shapes.layout.sizes) ** 2 if shapes.whitened else 0
    references = 5 * shapes.reference * row + 6 * shapes.classes * row
    batch = shapes.batch * (shapes.sample_bytes + 3 * row)
    gradients = PROCESS_BYTES + 2 * shapes.model_bytes + batch + shapes.rerun + 5 * shapes.task_rows * row
    scoring = PROCESS_BYTES + blocks // 2 + references + SCORING_BLOCK * (6 * row + 8 * shapes.reference)
    curvature = PROCESS_BYTES + max(4 * blocks + factor, blocks // 2 + references) + SCORING_BLOCK * (6 * row + 8 * shapes.reference)
    return ProjectedMemory(gradients, curvature, scoring, PROCESS_BYTES + JUDGED_BYTES * shapes.judged)
