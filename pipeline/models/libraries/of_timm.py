"""timm: models by name, with the data config of each, and the names of ImageNet's classes."""

import math
from collections.abc import Mapping
from types import ModuleType
from typing import cast

from torch import nn

from pipeline.inputs.recipes.crop import CropRecipe, Interpolation
from pipeline.models.libraries.library import Kwargs, Library

OF_IMAGENET = 1000


def _build(timm: ModuleType, name: str, kwargs: Kwargs) -> object:
    return timm.create_model(name, pretrained=False, **kwargs)


def _recipe(timm: ModuleType, module: nn.Module, name: str, kwargs: Kwargs) -> CropRecipe | None:
    """As timm's own transform for evaluation, of square images; None for others, and for other channels than RGB."""
    found: Mapping[str, object] = timm.data.resolve_model_data_config(module)
    channels, height, width = cast(tuple[int, int, int], found["input_size"])
    mean, std = (cast(tuple[float, ...], found[key]) for key in ("mean", "std"))
    mode, interpolation = str(found["crop_mode"]), str(found["interpolation"])
    if kwargs.get("in_chans", channels) != len(mean) or height != width or mode not in ("center", "squash"):
        return None
    if interpolation not in ("bilinear", "bicubic", "lanczos", "nearest"):
        return None
    resized = math.floor(height / cast(float, found["crop_pct"]))
    resize = resized if mode == "center" else (resized, resized)
    return CropRecipe(resize, (height, width), cast(Interpolation, interpolation), tuple(mean), tuple(std))


def _class_names(timm: ModuleType, module: nn.Module, name: str, kwargs: Kwargs) -> tuple[str, ...]:
    """ImageNet's, unless the config says how many classes there are."""
    if getattr(module, "num_classes", 0) != OF_IMAGENET or "num_classes" in kwargs:
        return ()
    names = timm.data.ImageNetInfo("imagenet-1k")
    return tuple(str(names.index_to_description(index)) for index in range(OF_IMAGENET))


TIMM = Library(
    "timm",
    ("pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir", "scriptable"),
    _build,
    _recipe,
    _class_names,
)
