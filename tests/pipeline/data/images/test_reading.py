"""Images: decoded one at a time, scaled, and in batches with the reasons of those that cannot be read."""

from pathlib import Path

import numpy as np
import pytest

from pipeline.config.samples import Preprocess
from pipeline.data.images.decoding import UnreadableImage, decode
from pipeline.data.images.reading import ImageOptions, first_images, read_chosen_images, read_images, scale_pixels
from pipeline.errors import SourceError
from tests.pipeline.data.images.files import picture, sources_of


def test_pixels_are_scaled_to_one_minus_mean_over_std() -> None:
    pixels = np.array([[[[0, 51, 255]], [[255, 0, 102]]]], np.uint8)
    scaled = scale_pixels(pixels, Preprocess(mean=(0.0, 0.2, 0.5), std=(1.0, 0.5, 2.0)))
    assert scaled.shape == (1, 3, 2, 1) and scaled.dtype == np.float32
    np.testing.assert_allclose(scaled[0, :, :, 0], [[0.0, 1.0], [0.0, -0.4], [0.25, -0.05]], atol=1e-7)


def test_an_image_of_another_size_is_resized_or_unreadable() -> None:
    assert decode(picture(9, 4, 4), (2, 3), resize=True).tolist() == np.full((2, 3, 3), 9).tolist()
    with pytest.raises(UnreadableImage, match=r"the image is 4 x 4 pixels, the first trusted one 2 x 3; set data"):
        decode(picture(9, 4, 4), (2, 3), resize=False)


@pytest.mark.parametrize(("data", "says"), [(None, "the image is null"), (b"", "is empty"), (b"GIF9", "not an image")])
def test_nothing_and_other_bytes_are_unreadable(data: bytes | None, says: str) -> None:
    with pytest.raises(UnreadableImage, match=says):
        decode(data, None, resize=False)


@pytest.mark.parametrize("batch_rows", [1, 2, 10])
def test_bad_rows_are_in_their_batch_with_the_reason(tmp_path: Path, batch_rows: int) -> None:
    images = [picture(1), picture(2), b"", picture(4), picture(5)]
    (source,), _ = sources_of(tmp_path, id=["a", "b", "c", None, "e"], image=images)
    batches = list(read_images(source, 1, 5, ImageOptions(batch_rows, (2, 3), resize=False)))
    assert [len(batch.ids) for batch in batches] == {1: [1] * 4, 2: [2, 2], 10: [4]}[batch_rows]
    assert [name for batch in batches for name in batch.ids] == ["b", "c", "", "e"]
    reasons = [reason for batch in batches for reason in batch.unreadable]
    assert reasons == ["", "the image is empty", "the id is null", ""]
    assert [int(pixels[0, 0, 0]) for batch in batches for pixels in batch.pixels] == [2, 5]


def test_images_of_structs_are_read_by_their_rows(tmp_path: Path) -> None:
    images = [{"bytes": picture(value), "path": None} for value in (1, 2, 3)] + [None]
    (source,), _ = sources_of(tmp_path, id=[1, 2, 3, 4], image=images)
    assert read_chosen_images(source, [2, 0]) == {0: picture(1), 2: picture(3)}
    assert read_chosen_images(source, [3]) == {3: None}
    assert read_chosen_images(source, [9]) == {}


def test_the_first_readable_images_have_the_first_ones_size(tmp_path: Path) -> None:
    images = [b"", picture(1), picture(2, 5, 5), picture(3)]
    (source,), model = sources_of(tmp_path, id=list("abcd"), image=images)
    assert first_images([source], 2, model.data.preprocess)[:, 0, 0, 0].tolist() == [1, 3]
    assert first_images([source], 9, Preprocess(size=4)).shape == (3, 4, 4, 3)


def test_images_of_a_grey_model_have_one_channel(tmp_path: Path) -> None:
    grey = Preprocess.model_validate({"mean": [0.5], "std": [0.25]})
    (source,), _ = sources_of(tmp_path, id=["a", "b"], image=[picture(51), b""])
    (batch,) = read_images(source, 0, 2, ImageOptions(4, (2, 3), resize=False, channels=grey.channels))
    assert batch.pixels.shape == first_images([source], 1, grey).shape == (1, 2, 3, 1)
    scaled = scale_pixels(batch.pixels, grey)
    assert scaled.shape == (1, 1, 2, 3)
    np.testing.assert_allclose(scaled, -1.2, atol=1e-6)
    (batch,) = read_images(source, 1, 2, ImageOptions(4, (2, 3), resize=False, channels=1))
    assert batch.pixels.shape == (0, 2, 3, 1)


def test_no_readable_image_is_an_error_with_the_first_reason(tmp_path: Path) -> None:
    (source,), model = sources_of(tmp_path, id=["a", "b"], image=[b"", b"x"])
    with pytest.raises(SourceError, match="none of its first 2 images can be read; the first: the image is empty"):
        first_images([source], 1, model.data.preprocess)
