"""What a library of models tells: how it is imported, and what it builds and knows by a model's name."""

import importlib
import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import ModuleType

import torch
from pydantic import JsonValue
from torch import nn

from pipeline.errors import SourceError
from pipeline.inputs.recipes.crop import CropRecipe

Kwargs = Mapping[str, JsonValue]


@dataclass(frozen=True)
class Library:
    """A library of models.

    `key`: of the config, and its package. `chosen_elsewhere`: arguments that would choose weights or files. `build`: a
    model without trained weights, by the library, its name and its arguments. `recipe`, `class_names`: how its images
    become inputs and what its outputs are called, by the library, the model, its name and its arguments; None and ()
    where that is not known.
    """

    key: str
    chosen_elsewhere: tuple[str, ...]
    build: Callable[[ModuleType, str, Kwargs], object]
    recipe: Callable[[ModuleType, nn.Module, str, Kwargs], CropRecipe | None]
    class_names: Callable[[ModuleType, nn.Module, str, Kwargs], tuple[str, ...]]


def imported(library: Library, name: str) -> ModuleType:
    """The library.

    Raises:
        SourceError: it is not installed, or cannot be imported.
    """
    where = f"{library.key} {name}"
    if importlib.util.find_spec(library.key) is None:
        raise SourceError(f"{where}: needs the package {library.key}, which is not installed; {_installing()}")
    try:
        return importlib.import_module(library.key)
    except Exception as error:
        first = " ".join(str(error).split())[:200]
        raise SourceError(
            f"{where}: importing {library.key} failed with {type(error).__name__} ({first}); {_installing()}"
        ) from error


def _installing() -> str:
    """How torchvision, which both libraries need, is installed beside this torch."""
    release, _, build = torch.__version__.partition("+")
    minor = int(release.split(".")[1]) + 15  # torchvision 0.15 is of torch 2.0
    return (
        f"torch and torchvision must both come from PyTorch's own index (this is torch {torch.__version__}; the "
        "package index's torchvision is linked against CUDA, and does not import beside a torch for the CPU): "
        f"pip install --no-deps 'torchvision==0.{minor}.*' --index-url "
        f"https://download.pytorch.org/whl/{build or 'cpu'}, which leaves torch as it is; and for timm then "
        "pip install --no-deps timm"
    )
