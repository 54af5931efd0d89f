"""What screening found comes back as it was written; where nothing was screened there is nothing."""

from pathlib import Path

from infra.storage.storage import Storage
from pipeline.artifacts.screening import ClassModes, Screening, encode_screening, read_screening
from tests.pipeline.artifacts.stores import stored


def test_it_comes_back_as_it_was_written(tmp_path: Path) -> None:
    modes = ClassModes(predicted=3, samples=40, separation=2.5, z=7.25, share=0.125, stands_out=True, decidable=False)
    screening = Screening(suspects=["b", "a"], classes=[modes], too_small=[1, 2])
    assert read_screening(stored(tmp_path, encode_screening(screening)), "task") == screening


def test_nothing_was_screened(tmp_path: Path) -> None:
    assert read_screening(Storage(str(tmp_path)), "task") is None
