"""Adding an adapter's matrices to its base, by PEFT; what does not fit is refused by name."""

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from pydantic import JsonValue
from torch import Tensor, nn

from pipeline.errors import SourceError
from pipeline.models.adapters.folder import WEIGHTS
from pipeline.models.huggingface.folder import types_of
from pipeline.models.huggingface.loaded_weights import FLOATS
from pipeline.models.user_code import user_code
from pipeline.models.weights.faithful import SCALED
from pipeline.models.weights.mismatches import name_some

if TYPE_CHECKING:
    from peft import LoraConfig

PREFIX = "base_model.model."  # of all names in a file that PEFT writes


def check_installed(name: str) -> None:
    """Raise SourceError where PEFT is not installed."""
    if importlib.util.find_spec("peft") is None:
        raise SourceError(
            f"adapter {name}: needs the package peft, which is not installed; "
            "install it with the extra of madaudit, in a clone: pip install '.[adapters]'"
        )


def add_adapter(base: nn.Module, settings: dict[str, JsonValue], weights: Path | None, name: str) -> None:
    """Add an adapter to its base, in place.

    Args:
        base: the model, on the CPU, or on the meta device.
        settings: of the adapter.
        weights: its file; None adds shapes alone.
        name: of the adapter, as the config has it.

    Raises:
        SourceError: it does not fit the base, or its numbers are not the parameters' values.
    """
    with user_code(f"adapter {name}"):
        from peft import inject_adapter_in_model  # noqa: PLC0415 - of an extra, and slow to import

        inject_adapter_in_model(_lora(settings), base, low_cpu_mem_usage=weights is None)
        if weights is not None:
            _fill(base, weights, name)
    base.eval()


def _lora(settings: dict[str, JsonValue]) -> "LoraConfig":
    from peft import LoraConfig  # noqa: PLC0415 - of an extra, and slow to import

    return LoraConfig(**settings, inference_mode=True)


def _fill(module: nn.Module, weights: Path, name: str) -> None:
    """Load the adapter's own tensors: all that the module has, and no others."""
    from peft import get_peft_model_state_dict, set_peft_model_state_dict  # noqa: PLC0415 - of an extra
    from safetensors.torch import load_file  # noqa: PLC0415 - beside them

    quantized = [f"{key} ({kind} in the file)" for key, kind in types_of([weights]).items() if kind not in FLOATS]
    if quantized:
        raise SourceError(f"adapter {name}: {name_some({'quantized': quantized})}; {SCALED}")
    given: dict[str, Tensor] = {key.removeprefix(PREFIX): value.float() for key, value in load_file(weights).items()}
    own = get_peft_model_state_dict(module)
    shapes = [
        f"{key} ({tuple(given[key].shape)} in the file, {tuple(own[key].shape)} in the model)"
        for key in sorted(own.keys() & given.keys())
        if own[key].shape != given[key].shape
    ]
    lines = name_some(
        {
            "missing in the file": sorted(own.keys() - given.keys()),
            "unknown to the model": sorted(given.keys() - own.keys()),
            "of another shape": shapes,
        }
    )
    if lines:
        raise SourceError(f"adapter {name}: {WEIGHTS} does not fit the base with the adapter's settings: {lines}")
    set_peft_model_state_dict(module, given)
    held = get_peft_model_state_dict(module)
    changed = [key for key in given if not torch.equal(held[key], given[key])]
    if changed:
        raise SourceError(f"adapter {name}: {name_some({'not loaded as they are': changed})}; merge it into its base")
