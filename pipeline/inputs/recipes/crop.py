"""The evaluation transform of timm and torchvision: resize, crop the middle, scale, normalise; by Pillow.

Pixels are those of torchvision's `Resize` and `CenterCrop` on Pillow's images, whose arithmetic of sizes this follows:
the longer side is truncated, and the middle is rounded to even.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos"]


@dataclass(frozen=True)
class CropRecipe:
    """Images (c, height, width) by a resize to `resize`, of the shorter side or (height, width), and a crop.

    `crop`: (height, width), filled with black where the image is smaller. `mean`, `std`: of pixels in [0, 1], for each
    channel.
    """

    resize: int | tuple[int, int]
    crop: tuple[int, int]
    interpolation: Interpolation
    mean: tuple[float, ...]
    std: tuple[float, ...]
    kind: Literal["crop"] = "crop"

    @property
    def channels(self) -> int:
        """How many channels the model's images have, 3 or 1."""
        return len(self.mean)

    def make(self, image: Image.Image) -> NDArray[np.float32]:
        """The input (c, height, width) of an image in RGB, or in grey where there is one channel."""
        resized = image.resize(self._size(image.width, image.height), Image.Resampling[self.interpolation.upper()])
        pixels = np.asarray(_middle(resized, self.crop)).reshape(*self.crop, self.channels)
        unit = pixels.astype(np.float32) / np.float32(255)
        normal = (unit - np.asarray(self.mean, np.float32)) / np.asarray(self.std, np.float32)
        return np.ascontiguousarray(normal.transpose(2, 0, 1))

    def _size(self, width: int, height: int) -> tuple[int, int]:
        """(width, height) after the resize."""
        if isinstance(self.resize, tuple):
            return self.resize[1], self.resize[0]
        short, long = sorted((width, height))
        longer = int(self.resize * long / short)
        return (self.resize, longer) if width <= height else (longer, self.resize)


def _middle(image: Image.Image, crop: tuple[int, int]) -> Image.Image:
    height, width = crop
    if image.width < width or image.height < height:
        larger = Image.new(image.mode, (max(width, image.width), max(height, image.height)))
        larger.paste(image, ((larger.width - image.width) // 2, (larger.height - image.height) // 2))
        image = larger
    left, top = round((image.width - width) / 2), round((image.height - height) / 2)
    return image.crop((left, top, left + width, top + height))
