"""Stored curvature: whitening in each form of its maps, moments, and reference rows come back bit for bit."""

from pathlib import Path

import numpy as np
import pytest
import torch

from infra.formats import arrays
from infra.storage.storage import Storage
from madcore import RowLayout, Whitening
from madcore.curvature.moments import BlockMoment
from madcore.curvature.whitening import DenseBasis, KroneckerBasis, Map, Matrix, SpectralMap
from pipeline.artifacts.curvature import (
    encode_moment,
    encode_references,
    encode_whitening,
    read_moment,
    read_reference_rows,
    read_whitening,
)
from pipeline.artifacts.trusted import TrustedSamples, read_trusted
from tests.pipeline.artifacts.stores import stored

LAYOUT = RowLayout(("a", "b"), (4, 6))


GENERATOR = torch.Generator().manual_seed(0)


def numbers(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=GENERATOR)


MAPS: dict[str, tuple[Map, Map]] = {
    "matrices": (Matrix(numbers(4, 4)), Matrix(numbers(6, 6))),
    "few vectors": (
        SpectralMap(DenseBasis(numbers(4, 2)), numbers(2), numbers(1)),
        SpectralMap(DenseBasis(numbers(6, 6)), numbers(6), numbers(1)),
    ),
    "Kronecker factors": (
        SpectralMap(KroneckerBasis(numbers(2, 2), numbers(2, 2)), numbers(4), numbers(1)),
        SpectralMap(KroneckerBasis(numbers(2, 2), numbers(3, 3)), numbers(6), numbers(1)),
    ),
}


@pytest.mark.parametrize("maps", MAPS.values(), ids=MAPS)
def test_whitening_comes_back_in_its_form(tmp_path: Path, maps: tuple[Map, Map]) -> None:
    storage = stored(tmp_path, encode_whitening(Whitening(LAYOUT, maps), [1.0, 2.0], [0.5, 0.25]))
    found = read_whitening(storage, "task", LAYOUT)
    assert found.maps is not None
    for own, original in zip(found.maps, maps, strict=True):
        assert type(own) is type(original)
        assert getattr(own, "basis", own).__class__ is getattr(original, "basis", original).__class__
        for one, other in zip(own.tensors, original.tensors, strict=True):
            assert torch.equal(one, other)


def test_no_folder_is_the_identity(tmp_path: Path) -> None:
    rows = numbers(3, LAYOUT.k)
    assert torch.equal(read_whitening(Storage(str(tmp_path)), "", LAYOUT)(rows), rows)


def test_the_first_format_had_matrices_only(tmp_path: Path) -> None:
    first, second = numbers(4, 4), numbers(6, 6)
    flat = torch.cat([first.flatten(), second.flatten()]).numpy()
    files = {f"whitening/{name}": data for name, data in arrays.encode(flat, {"format": 1}).items()}
    found = read_whitening(stored(tmp_path, files), "task", LAYOUT)
    assert found.maps is not None
    assert all(isinstance(own, Matrix) for own in found.maps)
    assert torch.equal(found.maps[1].tensors[0], second)


@pytest.mark.parametrize("rows", [0, 1, 3, 20])
def test_a_moment_comes_back(tmp_path: Path, rows: int) -> None:
    zero = BlockMoment.zero(LAYOUT)
    moment = zero.update(numbers(rows, LAYOUT.k))
    found = read_moment(stored(tmp_path, encode_moment(moment)), "task", zero)
    assert found.count == rows
    assert torch.equal(found.flat, moment.flat)


def test_references_come_with_all_trusted_samples(tmp_path: Path) -> None:
    trusted = TrustedSamples(["a", "b"], ["reference", "calibration"], torch.tensor([1, 2]), np.array([np.nan, 0.5]))
    rows = numbers(1, LAYOUT.k)
    storage = stored(tmp_path, encode_references(rows, trusted))
    assert torch.equal(read_reference_rows(storage, "task"), rows)
    assert read_trusted(storage, "task").ids == ["a", "b"]
