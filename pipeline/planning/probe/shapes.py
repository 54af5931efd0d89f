"""What a plan tells of a model whose weights are not there, or do not fit a worker: what follows from shapes alone.

The model is built on torch's meta device, whose tensors have shapes and no numbers, and a pass is followed there. What
a model's code makes depend on numbers is taken as for texts without padding: a truth holds, a number is 1, and all
elements are nonzero. Layers are not checked against autograd, and the digest is "".
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from infra.errors import StorageError
from madcore import Inputs, Measured
from madcore.measurements import logits_of, run
from pipeline.config.audit_config import AuditConfig
from pipeline.config.schema import ModelConfig
from pipeline.data.sources import Source
from pipeline.data.texts.reading import first_texts, longest_text
from pipeline.errors import SourceError
from pipeline.models.interface import LoadedModel, ModelSource
from pipeline.models.load import load_shapes
from pipeline.models.sources.choose import source_of
from pipeline.models.user_code import user_code
from pipeline.planning.memory import PROCESS_BYTES
from pipeline.planning.probe.found import Probe
from pipeline.planning.probe.rows import findings, shape_rows
from pipeline.planning.probe.texts import filler, text_sizes
from pipeline.planning.probe.vectors import first_samples
from pipeline.tasks.measured import by_number
from pipeline.tasks.registry import VECTOR_TASKS

META = torch.device("meta")

GIB = 1 << 30

FUSED = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu

ITEM = torch.ops.aten._local_scalar_dense.default


class _AssumedNumbers(TorchDispatchMode):
    """Says 1, or true, where a number of a tensor is asked for that has none."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """No: to be skipped by a compiler that nothing here uses, torch would import it, which takes seconds."""
        return False

    def __torch_dispatch__(
        self,
        func: Callable[..., object],
        types: Sequence[type],
        args: tuple[object, ...] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        if func is ITEM and isinstance(args[0], Tensor) and args[0].is_meta:
            return True if args[0].dtype == torch.bool else 1.0 if args[0].is_floating_point() else 1
        return func(*args, **(kwargs or {}))


class _FusedAttention(TorchFunctionMode):
    """Attends as on a CPU, by the kernel that keeps no scores; torch chooses another for tensors without numbers."""

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: Sequence[type],
        args: tuple[object, ...] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        call: Callable[..., object] = _attend if func is scaled_dot_product_attention else func
        return call(*args, **(kwargs or {}))


def _attend(  # noqa: PLR0913, PLR0917 - as torch's own function
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    if enable_gqa:
        times = query.shape[-3] // key.shape[-3]
        key, value = key.repeat_interleave(times, -3), value.repeat_interleave(times, -3)
    attended: Tensor = FUSED(query, key, value, dropout_p, is_causal, attn_mask=attn_mask, scale=scale)[0]
    return attended


@contextmanager
def _shapes_alone() -> Iterator[None]:
    from torch.fx.experimental import _config  # noqa: PLC0415 - few plans need it

    before = _config.meta_nonzero_assume_all_nonzero
    _config.meta_nonzero_assume_all_nonzero = True
    try:
        with _AssumedNumbers(), _FusedAttention():  # type: ignore[no-untyped-call]
            yield
    finally:
        _config.meta_nonzero_assume_all_nonzero = before


def _fits(source: ModelSource, granted: int) -> bool:
    """Whether a worker can load a model, by the sizes of its files; true of files that are not to be read at all."""
    try:
        return _loading_bytes(source.weight_bytes()) <= granted
    except (SourceError, StorageError):
        return True


def _loading_bytes(held: int) -> int:
    return PROCESS_BYTES + 2 * held


def probe_shapes(
    config: AuditConfig, model: ModelConfig, trusted: Sequence[Source], source: bytes | None = None
) -> Probe | None:
    """What a plan tells of a model that is not to be loaded; None where it needs to be, because it fits after all.

    Raises:
        SourceError: its folder or code is unusable, or its pass cannot be followed on shapes.
        ModelError: none of its layers can be covered.
    """
    origin, granted = source_of(config, model), int(config.run.memory_per_worker)
    missing = origin.missing_weights()
    if not missing and _fits(origin, granted):
        return None
    loaded = load_shapes(config, model, source)
    model = by_number(model, loaded.known.class_names)
    needed = _loading_bytes(sum(tensor.nbytes for tensor in loaded.module.state_dict().values()))
    if not missing and needed <= granted:
        return None  # a checkpoint holds more than the model, such as an optimizer
    reason = (
        missing or f"loading it takes {needed / GIB:,.2f} GiB, run.memory_per_worker grants {granted / GIB:,.2f} GiB"
    )
    follow = _vectors if loaded.limits is None else _texts
    with user_code(f"{model.described}: {reason}; a pass followed on shapes alone"), _shapes_alone():
        found = follow(loaded, model, trusted)
    return found.model_copy(update={"from_shapes": reason, "weightless": bool(missing)})


def _vectors(loaded: LoadedModel, model: ModelConfig, trusted: Sequence[Source]) -> Probe:
    first, measurement = first_samples(loaded, model, trusted, 1), VECTOR_TASKS[model.task].measurement(model)

    def measured(chosen: Sequence[Inputs]) -> Measured:
        return Measured(first.together(chosen), measurement).to(META)

    with torch.no_grad():
        logits = logits_of(run(loaded.module, measured(first.samples[:1]).inputs))
    rows = shape_rows(loaded.module, model)
    inputs, sizes = first.sized(rows, measured, logits[:1].nbytes)
    return findings(loaded, rows, inputs, sizes, int(logits.shape[1]) if model.has_classes else 0)


def _texts(loaded: LoadedModel, model: ModelConfig, trusted: Sequence[Source]) -> Probe:
    limits = loaded.limits
    assert limits is not None
    (text, *_) = first_texts(trusted, 1, limits)
    longest = limits.padded(longest_text(trusted, limits))
    with torch.no_grad():
        logits = logits_of(run(loaded.module, filler(text, 2, model).to(META).inputs))
    rows = shape_rows(loaded.module, model)
    inputs, sizes = text_sizes(
        rows, limits, longest, logits[0, 0].nbytes, lambda tokens: filler(text, tokens, model).to(META)
    )
    return findings(loaded, rows, inputs, sizes)
