"""Whether a module of transformers holds what its files hold: all weights, of those shapes, and unchanged.

The library renames tensors of files that earlier versions wrote. Its own rules say which name each has in the module.
"""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.data.folders import CONFIG
from pipeline.errors import SourceError
from pipeline.models.huggingface.folder import types_of
from pipeline.models.weights.faithful import SCALED
from pipeline.models.weights.fitting import names_left_out
from pipeline.models.weights.mismatches import name_some

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Mismatch = tuple[str, Sequence[int], Sequence[int]]

FLOATS = ("F64", "F32", "F16", "BF16")


def check_weights(
    found: Mapping[str, Collection[str] | Collection[Mismatch]], model: "PreTrainedModel", name: str
) -> None:
    """Refuses missing and unknown weights, which transformers would fill with random numbers or drop.

    Tied heads do not count as missing, nor as unknown what the model does not keep in its weights.

    Raises:
        SourceError: naming them.
    """
    unexpected = [str(key) for key in found["unexpected_keys"]]
    left_out = names_left_out(model, unexpected)
    shapes = [
        key if isinstance(key, str) else f"{key[0]} ({tuple(key[1])} in the file, {tuple(key[2])} in the model)"
        for key in found["mismatched_keys"]
    ]
    complaints = {
        "missing in the files": sorted(map(str, found["missing_keys"])),
        "unknown to the model": sorted(key for key in unexpected if key not in left_out),
        "of another shape": shapes,
    }
    lines = name_some(complaints)
    if lines:
        raise SourceError(
            f"huggingface {name}: the weights do not fit the {type(model).__name__} of its {CONFIG}: {lines}"
        )


def check_values(module: "PreTrainedModel", files: Sequence[Path], name: str) -> None:
    """Refuses parameters that are not what their file holds.

    transformers makes floats of whatever the files hold, so that int8 kernels lose the scale that gives them meaning.

    Raises:
        SourceError: naming them.
    """
    types = {key: kind for key, kind in types_of(files).items() if kind not in FLOATS}
    if not types:
        return
    own, base = module.state_dict(), f"{module.base_model_prefix}."
    renamed = _renamed(module, types)
    left_out = set(names_left_out(module, [*types, *renamed.values()]))
    quantized = []
    for key, kind in types.items():
        spellings = {spelling for one in (key, renamed[key]) for spelling in (one, base + one, one.removeprefix(base))}
        held = next((own[spelling] for spelling in spellings if spelling in own), None)
        if not spellings & left_out and (held is None or held.is_floating_point()):
            quantized.append(f"{key} ({kind} in the file)")
    if quantized:
        raise SourceError(f"huggingface {name}: {name_some({'quantized': quantized})}; {SCALED}")


def _renamed(module: "PreTrainedModel", keys: Collection[str]) -> dict[str, str]:
    """What the library calls tensors of a file in the module."""
    from transformers.conversion_mapping import get_model_conversion_mapping  # noqa: PLC0415 - slow to import

    renamed = {key: key for key in keys}
    for transform in get_model_conversion_mapping(module):
        renamed = {key: transform.rename_source_key(now)[0] for key, now in renamed.items()}
    return renamed
