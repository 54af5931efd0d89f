"""The evaluation transform of timm and torchvision, in Pillow's own steps."""

import numpy as np
import pytest
from PIL import Image

from pipeline.inputs.recipes.crop import CropRecipe, Interpolation

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)


def picture(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


def normal(image: Image.Image) -> np.ndarray:
    unit = np.asarray(image, np.float64) / 255
    return ((unit - MEAN) / STD).transpose(2, 0, 1)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize(
    ("size", "resized", "box"),
    [
        ((50, 40), (25, 20), (4, 2, 20, 18)),
        ((40, 50), (20, 25), (2, 4, 18, 20)),
        ((33, 40), (20, 24), (2, 4, 18, 20)),
        ((20, 20), (20, 20), (2, 2, 18, 18)),
    ],
)
def test_the_shorter_side_is_resized_and_the_middle_taken(
    interpolation: Interpolation, size: tuple[int, int], resized: tuple[int, int], box: tuple[int, int, int, int]
) -> None:
    recipe = CropRecipe(20, (16, 16), interpolation, MEAN, STD)
    expected = picture(*size).resize(resized, Image.Resampling[interpolation.upper()]).crop(box)
    np.testing.assert_allclose(recipe.make(picture(*size)), normal(expected), atol=1e-5)


def test_both_sides_are_resized_where_both_are_given() -> None:
    recipe = CropRecipe((20, 24), (16, 16), "bilinear", MEAN, STD)
    expected = picture(50, 40).resize((24, 20), Image.Resampling.BILINEAR).crop((4, 2, 20, 18))
    np.testing.assert_allclose(recipe.make(picture(50, 40)), normal(expected), atol=1e-5)


def test_a_smaller_image_is_surrounded_by_black() -> None:
    made = CropRecipe(10, (16, 16), "bilinear", MEAN, STD).make(picture(10, 10))
    np.testing.assert_allclose(
        made[:, :3, :], np.broadcast_to(normal(Image.new("RGB", (16, 3))), (3, 3, 16)), atol=1e-5
    )
    np.testing.assert_allclose(made[:, 3:13, 3:13], normal(picture(10, 10)), atol=1e-5)


def test_a_model_of_grey_images_has_one_channel() -> None:
    recipe = CropRecipe(20, (16, 16), "bilinear", (0.5,), (0.5,))
    assert recipe.channels == 1
    assert recipe.make(picture(20, 20).convert("L")).shape == (1, 16, 16)
