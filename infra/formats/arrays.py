"""Zarr v3 arrays, one shard each, written as bytes and read by range.

An array is encoded in memory into its two objects (metadata and shard), so that the commit can digest exactly what it
writes. Every chunk carries a CRC-32C and the metadata a seal, the digest of everything else in it: a flipped bit is an
error when read, not a wrong score.

Zarr reads in its own event loop; the filesystem is wrapped for it, so that its connections stay those of the storage,
shared by all threads and closed with it.
"""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import zarr
import zarr.abc.store
import zarr.codecs
import zarr.storage
from fsspec.implementations.asyn_wrapper import AsyncFileSystemWrapper
from numpy.typing import NDArray
from zarr.core.sync import sync

from infra.errors import REPAIR, Corrupt, Missing, StorageError
from infra.storage.files import digest
from infra.storage.storage import Storage

CHUNK_BYTES = 4 << 20
METADATA, SEAL = "zarr.json", "seal"

Numbers = NDArray[np.generic]
StoredArray = zarr.Array[Any]


def encode(array: Numbers, attributes: Mapping[str, str | int | list[str] | list[int]]) -> dict[str, bytes]:
    """An array as the objects of a Zarr array with a single shard, keyed by their names below the array's folder.

    Args:
        array: its first dimension is chunked to about 4 MiB; it may be empty.
        attributes: small JSON values stored with it.
    """
    rows = max(1, array.shape[0])
    row_bytes = max(1, array.nbytes // rows)
    chunk = max(1, min(rows, CHUNK_BYTES // row_bytes))
    shard = -(-rows // chunk) * chunk
    objects: dict[str, zarr.core.buffer.Buffer] = {}
    target = zarr.create_array(
        zarr.storage.MemoryStore(objects),
        shape=array.shape,
        dtype=array.dtype,
        chunks=(chunk, *array.shape[1:]),
        shards=(shard, *array.shape[1:]),
        compressors=[zarr.codecs.Crc32cCodec()],
        attributes=dict(attributes),
        config={"write_empty_chunks": True},
    )
    target[:] = array
    files = {name: buffer.to_bytes() for name, buffer in objects.items()}
    metadata = json.loads(files[METADATA])
    metadata["attributes"][SEAL] = _digest(metadata)
    return {**files, METADATA: json.dumps(metadata, indent=1).encode()}


def open_array(storage: Storage, path: str, newest: int = 1) -> StoredArray:
    """A stored array, read-only, its chunks read when indexed.

    Args:
        storage: where it is.
        path: its folder.
        newest: the highest value of the attribute `format` that the caller reads.

    Raises:
        Missing: there is none.
        Corrupt: its metadata is not what was written, or its format is newer.
    """
    place = storage.locate(path)
    try:
        metadata = _unsealed(storage.read(f"{path}/{METADATA}"), place)
    except Missing as error:
        raise Missing(f"{place}: no array here; {REPAIR}") from error
    found = metadata["attributes"].get("format", 0)
    if not isinstance(found, int) or found > newest:
        raise Corrupt(f"{place}: an array of format {found}, this mad reads up to {newest}; upgrade mad to read it")
    filesystem = AsyncFileSystemWrapper(storage.filesystem, asynchronous=True)
    store = zarr.storage.FsspecStore(filesystem, read_only=True, path=storage.full(path))
    try:
        return zarr.Array.from_dict(zarr.storage.StorePath(store), metadata)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Corrupt(f"{place}: not a Zarr array ({error}); {REPAIR}") from error


def _unsealed(data: bytes, place: str) -> dict[str, Any]:
    """The metadata without its seal, once checked; metadata without a seal is of an earlier version."""
    try:
        metadata: dict[str, Any] = json.loads(data)
        seal = metadata["attributes"].pop(SEAL, None)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise Corrupt(f"{place}: not a Zarr array ({error}); {REPAIR}") from error
    if seal is not None and seal != _digest(metadata):
        raise Corrupt(f"{place}: its metadata is damaged (its seal differs); {REPAIR}")
    return metadata


def _digest(metadata: dict[str, Any]) -> str:
    return digest(json.dumps(metadata, sort_keys=True).encode())


def read(array: StoredArray, start: int, stop: int) -> Numbers:
    """Rows [start, stop) of an array.

    Zarr reads a missing shard as zeros; so where a row is all zero, this checks that the shard exists.

    Raises:
        Corrupt: a chunk's checksum does not match, or a chunk is missing.
        StorageError: the store does not answer, or refuses this user.
    """
    try:
        values = array[start:stop]
    except StorageError:
        raise
    except (ValueError, OSError, RuntimeError) as error:
        raise Corrupt(f"{_place(array)}: rows {start} to {stop} are damaged ({error}); {REPAIR}") from error
    rows = np.asarray(values)
    if not rows.any(axis=tuple(range(1, rows.ndim))).all() and _shard_bytes(array) < array.nbytes:
        raise Corrupt(f"{_place(array)}: its data is gone or cut short; {REPAIR}")
    return rows


def _place(array: StoredArray) -> str:
    return str(getattr(array.store_path.store, "path", array.store_path))


def _shard_bytes(array: StoredArray) -> int:
    try:
        return sync(array.store_path.store.getsize("/".join(["c", *["0"] * array.ndim])))
    except FileNotFoundError:
        return 0
