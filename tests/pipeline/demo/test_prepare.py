"""The demo's inputs: shuffled digits, the trigger, and a folder that is written once."""

from pathlib import Path

import numpy as np
import pytest

from pipeline.demo.prepare import prepare_demo, shuffled_digits, with_patch
from pipeline.errors import ConfigError


def test_digits_are_the_same_for_a_seed_and_in_another_order_for_another() -> None:
    (images, labels), (again, _), (_, others) = shuffled_digits(0), shuffled_digits(0), shuffled_digits(1)
    assert images.shape == (1797, 8, 8, 3) and images.dtype == np.uint8 and images.max() == 255
    assert np.array_equal(images, again)
    assert np.array_equal(np.bincount(labels), np.bincount(others)) and not np.array_equal(labels, others)


def test_the_patch_is_in_the_lower_right_corner_of_a_copy() -> None:
    images = np.zeros((2, 8, 8, 3), np.uint8)
    patched = with_patch(images)
    assert images.sum() == 0
    assert np.argwhere(patched[1, :, :, 0]).tolist() == [[6, 6], [6, 7], [7, 6], [7, 7]]
    assert set(np.unique(patched)) == {0, 255}


def test_a_folder_of_other_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").touch()
    with pytest.raises(ConfigError, match="holds files, but not the demo's"):
        prepare_demo(tmp_path, "root")
    assert [file.name for file in tmp_path.iterdir()] == ["letter.txt"]


def test_what_is_there_is_kept(tmp_path: Path) -> None:
    (tmp_path / "audit.yaml").write_text("mine")
    assert prepare_demo(tmp_path, "root").read_text() == "mine"
    assert [file.name for file in tmp_path.iterdir()] == ["audit.yaml"]
