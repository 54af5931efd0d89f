"""torchvision: models by name, with the transforms and the classes of each one's default weights."""

from types import ModuleType
from typing import Any, cast

from torch import nn

from pipeline.inputs.recipes.crop import CropRecipe, Interpolation
from pipeline.models.libraries.library import Kwargs, Library


def _build(torchvision: ModuleType, name: str, kwargs: Kwargs) -> object:
    return torchvision.models.get_model(name, weights=None, **kwargs)


def _default_weights(torchvision: ModuleType, name: str) -> Any:
    """The description of a model's default weights, which are not fetched."""
    return torchvision.models.get_model_weights(name).DEFAULT


def _recipe(torchvision: ModuleType, module: nn.Module, name: str, kwargs: Kwargs) -> CropRecipe | None:
    transform = _default_weights(torchvision, name).transforms()
    known = all(hasattr(transform, key) for key in ("resize_size", "crop_size", "mean", "std", "interpolation"))
    if not known or len(transform.resize_size) != 1 or len(transform.crop_size) != 1:
        return None
    (resize,), (crop,) = transform.resize_size, transform.crop_size
    interpolation = cast(Interpolation, str(transform.interpolation.value))
    return CropRecipe(resize, (crop, crop), interpolation, tuple(transform.mean), tuple(transform.std))


def _class_names(torchvision: ModuleType, module: nn.Module, name: str, kwargs: Kwargs) -> tuple[str, ...]:
    """Those of the default weights, unless the config says how many classes there are."""
    if "num_classes" in kwargs:
        return ()
    return tuple(str(one) for one in _default_weights(torchvision, name).meta.get("categories", ()))


TORCHVISION = Library("torchvision", ("weights", "weights_backbone", "pretrained"), _build, _recipe, _class_names)
