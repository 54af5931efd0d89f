"""Parquet files that claim or grow to more than their size allows: refused, or read in small batches."""

import io
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from infra.errors import StorageError
from infra.formats.parquet_bounds import DECODED_BYTES, VALUES_PER_BYTE, check_claims, rows_at_once, rows_of_width
from infra.formats.parquet_footer import Footer, read_footer
from infra.formats.tables import open_parquet, read_rows, rows_decoded_at_once

ROWS = 2048
IDS = [f"sample-{number:06d}" for number in range(ROWS)]
MIB = 1 << 20


def repeated(value: bytes) -> pa.Array:
    """ROWS times the same value, stored once."""
    return pa.DictionaryArray.from_arrays(pa.array([0] * ROWS, pa.int32()), pa.array([value], pa.binary()))


def write(path: Path, image: pa.Array, **options: object) -> Path:
    """A file of samples with these images, in Arrow's own types."""
    pq.write_table(
        pa.table({"id": IDS[: len(image)], "image": image}), path, compression="zstd", store_schema=False, **options
    )
    return path


def footer_of(path: Path) -> Footer:
    with path.open("rb") as handle:
        return read_footer(handle)


def check(path: Path, columns: Sequence[str] = ("id", "image")) -> None:
    check_claims(footer_of(path), path.stat().st_size, columns, path.name)


@pytest.fixture
def bomb(tmp_path: Path) -> Path:
    """A file of a few KB, each of whose rows is the same 50 MiB."""
    return write(tmp_path / "bomb.parquet", repeated(bytes(50 * MIB)), dictionary_pagesize_limit=1 << 30)


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    """An honest file, with a dictionary of its images."""
    return write(tmp_path / "plain.parquet", pa.array([name.encode() * 20 for name in IDS]))


def test_an_honest_file_is_read_in_batches_as_wanted(plain: Path) -> None:
    check(plain)
    with plain.open("rb") as handle:
        assert rows_at_once(footer_of(plain), handle, [0], ["id", "image"], 256) == 256


def test_more_rows_than_bytes_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "many.parquet"
    pq.write_table(pa.table({"id": pa.nulls(1_000_000, pa.int64()), "image": pa.nulls(1_000_000, pa.binary())}), path)
    assert path.stat().st_size < 100_000
    with pytest.raises(
        StorageError,
        match=rf"many\.parquet: claims 1,000,000 rows in {path.stat().st_size:,} bytes, more than 16 a byte",
    ):
        check(path)


def test_a_list_of_more_values_than_the_file_can_hold_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "tokens.parquet"
    pq.write_table(pa.table({"id": ["a"], "input_ids": [[0] * 3_000_000]}), path)
    with pytest.raises(StorageError, match=r"column 'input_ids\.list\.element', claims 3,000,000 values in a file of"):
        check(path, ["id", "input_ids"])


def test_a_column_that_grows_a_thousandfold_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "zeros.parquet", pa.array([bytes(50 * MIB)] * 6), use_dictionary=False)
    assert path.stat().st_size < 100_000
    grows = r"claims to grow from [\d,]+ to 314,57\d,\d+ bytes when it is read, more than 100-fold"
    with pytest.raises(StorageError, match=f"row group 0, column 'image', {grows}"):
        check(path)
    check(path, ["id"])


def test_few_rows_are_decoded_at_once_where_values_begin_with_those_before(tmp_path: Path) -> None:
    """As Spark and DataFusion write text and bytes in version 2 of Parquet."""
    value = bytes(range(256)) * (16 << 10)
    path = write(
        tmp_path / "delta.parquet",
        pa.array([value] * 100),
        use_dictionary=False,
        column_encoding={"id": "DELTA_BYTE_ARRAY", "image": "DELTA_BYTE_ARRAY"},
    )
    check(path)
    assert path.stat().st_size < 100_000
    with path.open("rb") as handle:
        assert 50 < rows_at_once(footer_of(path), handle, [0], ["id", "image"], 256) <= DECODED_BYTES // len(value)
    first, *_ = read_rows(str(path), 0, 100, ["id", "image"], 256)
    assert first.column("id").to_pylist() == IDS[: len(first)]
    assert first.column("image")[len(first) - 1].as_py() == value


def test_padded_texts_are_not_too_many_values(tmp_path: Path) -> None:
    texts = np.random.default_rng(0).integers(1, 256, (500, 48))
    padded = np.pad(texts, ((0, 0), (0, 2048 - 48)))
    columns = {"id": IDS[:500], "input_ids": list(padded), "attention_mask": list((padded > 0).astype(np.int64))}
    path = tmp_path / "padded.parquet"
    pq.write_table(pa.table(columns), path, compression="zstd")
    assert VALUES_PER_BYTE * path.stat().st_size < 2048 * 500
    check(path, ["id", "input_ids", "attention_mask"])


@pytest.mark.parametrize(
    ("kind", "rows"),
    [
        (pa.string(), 1024),
        (pa.binary(100 * MIB), 2),
        (pa.list_(pa.int64(), 10 * MIB), 3),
        (pa.struct([("bytes", pa.binary(100 * MIB)), ("path", pa.string())]), 2),
        (pa.fixed_shape_tensor(pa.int64(), (10, MIB)), 3),
    ],
)
def test_nulls_of_a_wide_type_take_its_width_and_are_bounded(tmp_path: Path, kind: pa.DataType, rows: int) -> None:
    pq.write_table(pa.schema([("image", kind)]).empty_table(), tmp_path / "wide.parquet")
    with (tmp_path / "wide.parquet").open("rb") as handle:
        file = open_parquet(handle, "wide.parquet")
        assert rows_decoded_at_once(file, handle, [], ["image"], 1024) == rows


def test_a_row_of_a_type_that_is_too_wide_is_refused() -> None:
    with pytest.raises(StorageError, match="each row takes 1,000 MiB by its columns' types, at most 512 are read"):
        rows_of_width(1000 * MIB, 1024)


def grouped(path: Path, sizes: Sequence[int], **options: object) -> pa.Table:
    """A file of row groups of these sizes, and what it holds."""
    table = pa.table({"id": IDS, "image": pa.array([name.encode() for name in IDS]).dictionary_encode()})
    with pq.ParquetWriter(path, table.schema, **options) as writer:
        for size in sizes:
            writer.write_table(table.slice(0, size))
    return pa.concat_tables([table.slice(0, size) for size in sizes])


SHAPES: dict[str, tuple[list[int], dict[str, object]]] = {
    "empty row groups": ([0, 3, 0, 0, 2, 0], {}),
    "tiny row groups": ([1] * 50, {}),
    "pages of version 2": ([20], {"data_page_version": "2.0", "version": "2.6"}),
    "no statistics": ([20], {"write_statistics": False, "store_schema": False}),
    "page indexes": ([20], {"write_page_index": True}),
    "tiny pages": ([500], {"data_page_size": 10, "write_batch_size": 3}),
    "lengths as deltas": (
        [20],
        {"use_dictionary": False, "column_encoding": {"id": "DELTA_LENGTH_BYTE_ARRAY", "image": "PLAIN"}},
    ),
    **{f"compressed with {codec}": ([20], {"compression": codec}) for codec in ("gzip", "brotli", "lz4", "none")},
}


@pytest.mark.parametrize(("sizes", "options"), SHAPES.values(), ids=SHAPES)
def test_what_pyarrow_reads_is_read(tmp_path: Path, sizes: list[int], options: dict[str, object]) -> None:
    expected = grouped(tmp_path / "file.parquet", sizes, **options)
    check(tmp_path / "file.parquet")
    batches = list(read_rows(str(tmp_path / "file.parquet"), 0, len(expected), ["id", "image"], 7))
    assert [name for batch in batches for name in batch.column("id").to_pylist()] == expected["id"].to_pylist()
    assert [data for batch in batches for data in batch.column("image").to_pylist()] == expected["image"].to_pylist()


def test_a_file_with_megabytes_of_metadata_is_read(tmp_path: Path) -> None:
    table = pa.table({"id": ["a"]}).replace_schema_metadata({"huggingface": "{}" * (2 << 20), "pandas": "x" * MIB})
    pq.write_table(table, tmp_path / "file.parquet")
    check(tmp_path / "file.parquet", ["id"])
    assert [batch.num_rows for batch in read_rows(str(tmp_path / "file.parquet"), 0, 1, ["id"])] == [1]


def test_few_rows_of_a_large_dictionary_are_decoded_at_once(bomb: Path) -> None:
    check(bomb)
    assert bomb.stat().st_size < 100_000
    with bomb.open("rb") as handle:
        assert rows_at_once(footer_of(bomb), handle, [0], ["id", "image"], 256) == DECODED_BYTES // (50 * MIB + 4)
    assert [batch.num_rows for batch in read_rows(str(bomb), 0, 12, ["image"], 256)] == [5, 5, 2]


READING = """
import sys
from pathlib import Path
from infra.formats.parquet_footer import Footer, read_footer
from infra.formats.tables import read_rows
rows = sum(len(batch.column("image")) for batch in read_rows(sys.argv[1], 0, 200, ["id", "image"], 256))
lines = Path("/proc/self/status").read_text().splitlines()
(peak,) = (line for line in lines if line.startswith("VmHWM"))
print(rows, int(peak.split()[1]) // 1024)
"""


def test_memory_is_bounded_while_it_is_read(bomb: Path) -> None:
    """All rows at once would be 10 GiB of the 200."""
    ended = subprocess.run(
        [sys.executable, "-c", READING, str(bomb)], capture_output=True, text=True, check=True, timeout=300
    )
    rows, peak = map(int, ended.stdout.split())
    assert rows == 200
    assert peak < 1500, "MiB"


def with_header(path: Path, header: bytes) -> io.BytesIO:
    """The file with another beginning of the first page of its images."""
    chunk = pq.read_metadata(path).row_group(0).column(1)
    data = bytearray(path.read_bytes())
    data[chunk.dictionary_page_offset : chunk.dictionary_page_offset + len(header)] = header
    return io.BytesIO(bytes(data))


HEADERS = {
    "a dictionary of 1,024 MiB": (
        b"\x15\x04\x15\x80\x80\x80\x80\x08\x15\x04",
        "a dictionary of 1,024 MiB, at most 512 are read at once",
    ),
    "no header": (b"\xff" * 16, "a damaged page header"),
    "a number without end": (b"\x15\x04\x15" + b"\x80" * 13, "a damaged page header"),
    "other fields": (b"\x25\x04\x15\x04", "a damaged page header"),
}


@pytest.mark.parametrize(("header", "expected"), HEADERS.values(), ids=HEADERS)
def test_a_page_that_claims_too_much_or_is_none_is_refused(plain: Path, header: bytes, expected: str) -> None:
    with pytest.raises(StorageError, match=expected):
        rows_at_once(footer_of(plain), with_header(plain, header), [0], ["id", "image"], 256)


def test_a_footer_whose_sums_differ_is_refused(plain: Path) -> None:
    for size, expected in (
        (plain.stat().st_size // 8, "claims [0-9,]+ bytes from byte"),
        (1, "claims 2,048 rows in 1 bytes, more than 16 a byte"),
    ):
        with pytest.raises(StorageError, match=expected):
            check_claims(footer_of(plain), size, ["id", "image"], "x.parquet")


CHANGING = """
import sys
from pathlib import Path
import pyarrow.parquet as pq
from infra.errors import StorageError
from infra.formats.parquet_bounds import check_claims
from infra.formats.parquet_footer import read_footer
from infra.formats.tables import open_parquet, read_rows

good, target, outcomes = Path(sys.argv[1]).read_bytes(), Path(sys.argv[2]), set()
begins = len(good) - 8 - int.from_bytes(good[-8:-4], "little")
for place in range(begins, len(good) - 8, 5):
    for value in (0, 0x15, 0x7F, 0xFF):
        target.write_bytes(good[:place] + bytes([value]) + good[place + 1 :])
        try:
            with target.open("rb") as handle:
                footer = read_footer(handle)
                check_claims(footer, len(good), ["id", "image"], "changed")
                rows = open_parquet(handle, "changed").metadata.num_rows
            read = sum(batch.num_rows for batch in read_rows(str(target), 0, min(rows, 100), ["id", "image"]))
            outcomes.add(f"{read} rows")
        except StorageError:
            outcomes.add("refused")
print(sorted(outcomes))
"""


def test_a_footer_with_any_byte_changed_is_read_or_refused_and_ends_no_process(plain: Path, tmp_path: Path) -> None:
    """Asked for a column's metadata, pyarrow would end the process for some of these."""
    ended = subprocess.run(
        [sys.executable, "-c", CHANGING, str(plain), str(tmp_path / "x")],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "'100 rows', 'refused'" in ended.stdout
