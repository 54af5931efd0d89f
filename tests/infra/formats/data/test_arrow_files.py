"""Arrow files and streams: only asked columns are read; what is damaged or claims too much is refused."""

import io
import struct
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.errors import StorageError
from infra.formats.data.arrow.bodies import wanted_buffers
from infra.formats.range_reader import RangeReader
from tests.infra.formats.data.samples import inspected, rows_of
from tests.strategies import LAW


def stream(table: pa.Table, rows: int = 3, compression: str | None = None) -> bytes:
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(compression=compression)) as writer:
        writer.write_table(table, max_chunksize=rows)
    return sink.getvalue()


def in_file(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=3)
    return sink.getvalue()


COLUMNS = {
    "text": pa.array(["a", None, "b", "c", "d"]),
    "view": pa.array(["a", None, "b" * 40, "c", "d"], pa.string_view()),
    "nothing": pa.nulls(5),
    "categories": pa.array(["a", "b", "a", None, "c"]).dictionary_encode(),
    "lists": pa.array([[1, 2], [], None, [3], [4]], pa.list_(pa.int16())),
    "fixed": pa.array([[1, 2], [3, 4], None, [5, 6], [7, 8]], pa.list_(pa.float32(), 2)),
    "structs": pa.array([{"bytes": b"x", "path": "p"}] * 5),
    "maps": pa.array([[("k", 1)]] * 5, pa.map_(pa.string(), pa.int8())),
    "runs": pa.RunEndEncodedArray.from_arrays(pa.array([2, 5], pa.int32()), pa.array(["a", "b"])),
    "decimals": pa.array([1, 2, None, 4, 5]).cast(pa.decimal128(30, 2)),
}


@pytest.mark.parametrize("compression", [None, "zstd", "lz4"])
@pytest.mark.parametrize("name", COLUMNS)
def test_every_type_is_read_alone_and_beside_others(tmp_path: Path, name: str, compression: str | None) -> None:
    table = pa.table({"before": range(5), name: COLUMNS[name], "behind": list("vwxyz")})
    file, known = inspected(tmp_path, "x.arrow", stream(table, compression=compression))
    for columns in ([name], ["behind", name], ["before"], ["behind"]):
        with RangeReader(file, columns, 2, known.layout) as reader:
            rows = [row for batch in reader.read(1, 5) for row in batch.to_pylist()]
            assert rows == table.select(columns).to_pylist()[1:]
    assert rows_of(tmp_path, "y.arrow", in_file(table)) == table.to_pylist()


@LAW
@given(st.lists(st.integers(0, 5), min_size=1, max_size=6), st.data())
def test_ranges_in_any_order_equal_slicing(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], data: st.DataObject
) -> None:
    table = pa.table({"id": range(sum(sizes))})
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        for place, size in enumerate(sizes):
            writer.write_table(table.slice(sum(sizes[:place]), size))
    file, known = inspected(tmp_path_factory.mktemp("arrow"), "x", sink.getvalue())
    bounds = st.tuples(st.integers(0, len(table)), st.integers(0, len(table))).map(sorted)
    with RangeReader(file, ["id"], 4, known.layout) as reader:
        for start, stop in data.draw(st.lists(bounds, max_size=5)):
            read = [row for batch in reader.read(start, stop) for row in batch.to_pylist()]
            assert read == table.slice(start, stop - start).to_pylist()


def test_what_is_not_asked_for_is_not_read() -> None:
    schema = pa.schema([("id", pa.string()), ("image", pa.struct([("bytes", pa.binary())])), ("label", pa.int8())])
    assert wanted_buffers(schema, [0, 2]) == frozenset({0, 1, 2, 7, 8})


LONG = pa.table({"id": ["x" * 100] * 9, "n": range(9)})


HOSTILE = {
    "cut off": (stream(LONG)[:-200], "ends in the middle of a batch of rows; was it copied whole"),
    "a file that is cut off": (in_file(LONG)[:-200], "begins as an Arrow file and does not end as one; was it copied"),
    "no schema": (b"\xff\xff\xff\xff\0\0\0\0", "no schema stands at its beginning"),
    "a message of any length": (b"\xff\xff\xff\xff" + struct.pack("<i", 1 << 30) + bytes(64), "no message at byte 0"),
    "a message of zeros": (b"\xff\xff\xff\xff" + struct.pack("<i", 64) + bytes(64), "no message at byte 0|no schema"),
    "rows that nobody wrote": (
        stream(pa.table({"n": pa.nulls(77_777)}), 10**6),
        r"claims 77,777 rows in \d+ bytes, more than 16 a byte; the file is damaged or malicious",
    ),
}


@pytest.mark.parametrize(("data", "says"), HOSTILE.values(), ids=HOSTILE)
def test_a_damaged_file_is_refused(tmp_path: Path, data: bytes, says: str) -> None:
    with pytest.raises(StorageError, match=says):
        inspected(tmp_path, "x.arrow", data)


def test_a_compressed_batch_that_claims_to_grow_is_refused(tmp_path: Path) -> None:
    data = stream(pa.table({"n": np.zeros(40_000_000, np.int64)}), 10**8, "zstd")
    file, known = inspected(tmp_path, "x.arrow", data + bytes(3_000_000))
    with (
        RangeReader(file, ["n"], 1024, known.layout) as reader,
        pytest.raises(StorageError, match=r"claims to grow from [\d,]+ to 320,000,000 bytes .*, more than 100-fold"),
    ):
        next(reader.read(0, 1))


def test_any_bytes_in_a_body_are_refused_or_read(tmp_path: Path) -> None:
    """Offsets beyond a buffer would be read as they are."""
    whole = stream(pa.table({"id": ["ab", "cd", "ef"], "l": [[1], [2, 3], []]}))
    rng = np.random.default_rng(0)
    for _ in range(300):
        data = bytearray(whole)
        for place in rng.integers(0, len(data), 3):
            data[place] = rng.integers(256)
        try:
            rows_of(tmp_path, "x", bytes(data))
        except (StorageError, UnicodeDecodeError):
            continue
