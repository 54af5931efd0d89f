"""An image processor of transformers, made of its own document; its backend of Pillow and numpy, wherever it runs."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.errors import SourceError

CLASS = "class"

SIDES, LARGEST_SIDE = ("size", "crop_size", "pad_size"), 8192

NAME = re.compile(r"[A-Za-z0-9]+ImageProcessor(Pil)?")


class _Preparation(Protocol):
    def __call__(self, *, images: Image.Image, return_tensors: str) -> dict[str, NDArray[np.float32]]: ...


@dataclass(frozen=True)
class LibraryRecipe:
    """What a processor makes of an image; `document`: its settings and the name of its class, as JSON."""

    document: str
    kind: Literal["library"] = "library"

    @property
    def channels(self) -> int:
        """Processors take RGB."""
        return 3

    def make(self, image: Image.Image) -> NDArray[np.float32]:
        """The input (c, height, width) of an image in RGB.

        Raises:
            ValueError: the processor makes something else than one such input.
        """
        made = _preparation(self.document)(images=image, return_tensors="np")
        pixels = np.asarray(made.get("pixel_values"))
        if pixels.ndim != 4 or len(pixels) != 1:
            raise ValueError(f"the processor makes {', '.join(made)} of shape {pixels.shape}, not one image")
        return np.ascontiguousarray(pixels[0], dtype=np.float32)


def read_recipe(folder: Path) -> LibraryRecipe:
    """The processor of a folder, whose documents have been checked to choose no code and no other file.

    Raises:
        OSError: the folder has none.
        ValueError: it is of no known class, or makes huge images.
    """
    from transformers import AutoImageProcessor  # noqa: PLC0415 - of an extra, and slow to import

    processor = AutoImageProcessor.from_pretrained(
        folder, local_files_only=True, trust_remote_code=False, backend="pil"
    )
    document = {**processor.to_dict(), CLASS: type(processor).__name__}
    largest = max((side for key in SIDES for side in _numbers(document.get(key))), default=0)
    if largest > LARGEST_SIDE:
        raise ValueError(f"it makes images of {largest:,} pixels a side, at most {LARGEST_SIDE:,} are made")
    return LibraryRecipe(json.dumps(document, sort_keys=True))


def _numbers(value: object) -> Iterator[int]:
    for one in value.values() if isinstance(value, dict) else [value]:
        if isinstance(one, int):
            yield one


@lru_cache(maxsize=16)
def _preparation(document: str) -> _Preparation:
    import transformers  # noqa: PLC0415 - of an extra, and slow to import

    settings = json.loads(document)
    name = str(settings.pop(CLASS, ""))
    kind = getattr(transformers, name, None) if NAME.fullmatch(name) else None
    if kind is None:
        raise SourceError(
            f"the image processor {name} is not in the installed transformers; install the version that the plan was "
            "made with"
        )
    processor: _Preparation = kind.from_dict(settings)
    return processor
