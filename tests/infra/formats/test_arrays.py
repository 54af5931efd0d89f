"""Arrays: two objects each, read back exactly, whole or by range; damage is an error when read."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from infra.errors import Corrupt, Missing
from infra.formats.arrays import CHUNK_BYTES, Numbers, encode, open_array, read
from infra.storage.storage import Storage
from tests.infra.stores import fresh_url
from tests.strategies import LAW

DTYPES = ["float16", "float32", "float64", "int8", "int32", "int64", "uint8", "bool"]

some_arrays = npst.arrays(st.sampled_from(DTYPES), npst.array_shapes(min_dims=1, max_dims=3, min_side=1, max_side=5))


def stored(storage: Storage, path: str, array: Numbers) -> zarr.Array:
    """The array, written and opened."""
    for name, data in encode(array, {}).items():
        storage.write(f"{path}/{name}", data)
    return open_array(storage, path)


def three_chunks() -> Numbers:
    """Rows of 1 KiB, two and a half chunks of them, no two alike."""
    rows = 5 * CHUNK_BYTES // 2 // 1024
    return np.random.default_rng(0).integers(1, 255, (rows, 1024), dtype=np.uint8)


@LAW
@given(some_arrays, st.data())
def test_round_trip_whole_and_by_range(array: Numbers, data: st.DataObject) -> None:
    back = stored(Storage(fresh_url("memory")), "a/rows", array)
    assert (back.dtype, back.shape) == (array.dtype, array.shape)
    np.testing.assert_array_equal(read(back, 0, len(array)), array)
    start, stop = sorted(data.draw(st.tuples(st.integers(0, len(array)), st.integers(0, len(array)))))
    np.testing.assert_array_equal(read(back, start, stop), array[start:stop])


@pytest.mark.parametrize("shape", [(0,), (0, 3)], ids=str)
def test_an_empty_array_comes_back(storage: Storage, shape: tuple[int, ...]) -> None:
    found = read(stored(storage, "none", np.ones(shape, np.float32)), 0, 0)
    assert (found.dtype, found.shape) == (np.float32, shape)


@pytest.mark.parametrize("dtype", DTYPES)
def test_an_array_is_its_metadata_and_one_shard(dtype: str) -> None:
    objects = encode(np.ones((7, 3), dtype=dtype), {})
    assert sorted(objects) == ["c/0/0", "zarr.json"]


@pytest.mark.parametrize("shape", [(7,), (7, 3)], ids=str)
def test_an_array_of_zeros_has_a_shard_too(shape: tuple[int, ...]) -> None:
    assert len(encode(np.zeros(shape, np.float32), {})) == 2


def test_a_large_array_is_one_shard_of_chunks(storage: Storage) -> None:
    array = three_chunks()
    assert len(encode(array, {})) == 2
    back = stored(storage, "rows", array)
    assert back.chunks[0] * 1024 == CHUNK_BYTES
    assert back.shards[0] == 3 * back.chunks[0]
    edge = back.chunks[0]
    for start, stop in [
        (0, 1),
        (0, edge),
        (edge - 1, edge + 1),
        (edge, 2 * edge),
        (2 * edge, len(array)),
        (len(array) - 1, len(array)),
        (0, len(array)),
    ]:
        np.testing.assert_array_equal(read(back, start, stop), array[start:stop])


def test_equal_arrays_are_equal_bytes() -> None:
    array = np.arange(12, dtype=np.float32).reshape(4, 3)
    assert encode(array, {"layers": ["a"]}) == encode(array.copy(), {"layers": ["a"]})
    assert encode(array, {"layers": ["a"]}) != encode(array, {"layers": ["b"]})


def test_attributes_come_back(storage: Storage) -> None:
    attributes = {"format": 1, "names": ["a.weight", "b.weight"], "sizes": [3, 4], "note": "ü"}
    for name, data in encode(np.ones(3), attributes).items():
        storage.write(f"rows/{name}", data)
    assert dict(open_array(storage, "rows").attrs) == attributes


def test_a_flipped_bit_anywhere_in_the_shard_is_corrupt(storage: Storage) -> None:
    array = np.arange(1, 7, dtype=np.float32).reshape(2, 3)
    back = stored(storage, "rows", array)
    good = storage.read("rows/c/0/0")
    for position in range(len(good)):
        damaged = bytearray(good)
        damaged[position] ^= 1 << position % 8
        storage.write("rows/c/0/0", bytes(damaged))
        with pytest.raises(Corrupt, match="rows 0 to 2 are damaged"):
            read(back, 0, 2)
    storage.write("rows/c/0/0", good)
    np.testing.assert_array_equal(read(back, 0, 2), array)


def test_damage_in_one_chunk_leaves_the_others_readable(storage: Storage) -> None:
    array = three_chunks()
    back = stored(storage, "rows", array)
    damaged = bytearray(storage.read("rows/c/0/0"))
    damaged[CHUNK_BYTES + 100] ^= 1
    storage.write("rows/c/0/0", bytes(damaged))
    edge = back.chunks[0]
    np.testing.assert_array_equal(read(back, 0, edge), array[:edge])
    np.testing.assert_array_equal(read(back, 2 * edge, len(array)), array[2 * edge :])
    with pytest.raises(Corrupt):
        read(back, edge, edge + 1)


@pytest.mark.parametrize("keep", [1, 3, 20, 40])
def test_a_truncated_shard_is_corrupt(storage: Storage, keep: int) -> None:
    back = stored(storage, "rows", np.arange(1, 7, dtype=np.float32))
    storage.write("rows/c/0", storage.read("rows/c/0")[:keep])
    with pytest.raises(Corrupt, match="damaged"):
        read(back, 0, 6)


LOSSES = {"gone": lambda storage, path: storage.remove(path), "emptied": lambda storage, path: storage.write(path, b"")}


@pytest.mark.parametrize("shape", [(6,), (6, 2)], ids=str)
@pytest.mark.parametrize("lose", LOSSES.values(), ids=LOSSES.keys())
def test_a_lost_shard_is_corrupt_and_not_zeros(
    storage: Storage, lose: Callable[[Storage, str], None], shape: tuple[int, ...]
) -> None:
    opened_before = stored(storage, "rows", np.ones(shape, dtype=np.float32))
    lose(storage, "/".join(["rows/c", *"0" * len(shape)]))
    for array in (opened_before, open_array(storage, "rows")):
        with pytest.raises(Corrupt, match=r"rows.*gone or cut short"):
            read(array, 2, 6)


@pytest.mark.parametrize("shape", [(6,), (6, 2)], ids=str)
def test_rows_that_are_zero_are_not_lost(storage: Storage, shape: tuple[int, ...]) -> None:
    array = np.zeros(shape, dtype=np.float32)
    array[1] = 1
    np.testing.assert_array_equal(read(stored(storage, "rows", array), 0, 6), array)
    np.testing.assert_array_equal(read(stored(storage, "zeros", 0 * array), 2, 5), 0 * array[2:5])


def test_no_array_is_missing(storage: Storage) -> None:
    storage.write("folder/other", b"1")
    for path in ("nothing", "folder"):
        with pytest.raises(Missing, match=f"{path}: no array here"):
            open_array(storage, path)


METADATA = {
    "no JSON": b"garbage",
    "nothing": b"",
    "no text": b"\xff\xfe",
    "an empty object": b"{}",
    "a group": b'{"zarr_format": 3, "node_type": "group"}',
    "half": encode(np.ones(3), {})["zarr.json"][:300],
    "unknown codec": encode(np.ones(3), {})["zarr.json"].replace(b"sharding_indexed", b"sharding_imagined"),
}


@pytest.mark.parametrize("metadata", METADATA.values(), ids=METADATA.keys())
def test_metadata_that_cannot_be_parsed_is_corrupt(storage: Storage, metadata: bytes) -> None:
    storage.write("rows/zarr.json", metadata)
    with pytest.raises(Corrupt, match=r"rows: not a Zarr array|rows: its metadata is damaged"):
        open_array(storage, "rows")


def test_a_flipped_bit_anywhere_in_the_metadata_is_corrupt_or_without_meaning(tmp_path: Path) -> None:
    """A space of another kind says nothing else; whatever does is refused."""
    storage, array = Storage(str(tmp_path)), np.arange(1, 7, dtype=np.float32).reshape(2, 3)
    whole = dict(stored(storage, "rows", array).metadata.to_dict())
    good = storage.read("rows/zarr.json")
    refused = 0
    for position in range(len(good)):
        damaged = bytearray(good)
        damaged[position] ^= 1 << position % 8
        storage.write("rows/zarr.json", bytes(damaged))
        try:
            assert {**open_array(storage, "rows").metadata.to_dict(), "attributes": {}} == whole
        except Corrupt as error:
            refused += "--repair" in str(error)
    assert refused > len(good) // 2


@pytest.mark.parametrize("metadata", [b"[1]", b"null", b'"text"'], ids=str)
def test_metadata_of_another_json_type_is_corrupt(storage: Storage, metadata: bytes) -> None:
    storage.write("rows/zarr.json", metadata)
    with pytest.raises(Corrupt):
        open_array(storage, "rows")


def test_an_opened_array_cannot_be_written(storage: Storage) -> None:
    back = stored(storage, "rows", np.ones(3))
    with pytest.raises(ValueError, match="read-only"):
        back[0] = 2.0


@pytest.mark.parametrize(("found", "newest", "refused"), [(1, 1, False), (2, 2, False), (3, 2, True), ("two", 2, True)])
def test_a_newer_format_of_an_array_is_refused_with_a_sentence(
    storage: Storage, found: int | str, newest: int, refused: bool
) -> None:
    for name, data in encode(np.ones(3), {"format": found}).items():
        storage.write(f"rows/{name}", data)
    if refused:
        with pytest.raises(
            Corrupt, match=rf"rows: an array of format {found}, this mad reads up to {newest}; upgrade mad to read it"
        ):
            open_array(storage, "rows", newest)
    else:
        assert open_array(storage, "rows", newest).shape == (3,)
