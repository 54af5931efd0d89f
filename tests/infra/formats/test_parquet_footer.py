"""The footer parser: what pyarrow's metadata says of honest files, and a StorageError for everything else."""

import base64
import io
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow.parquet.encryption import CryptoFactory, EncryptionConfiguration, KmsClient, KmsConnectionConfig

from infra.errors import StorageError
from infra.formats.parquet_bounds import check_claims
from infra.formats.parquet_footer import LARGEST_FOOTER, MAGIC, Chunk, Footer, read_footer


def footer_of(data: bytes) -> Footer:
    return read_footer(io.BytesIO(data))


def with_footer(footer: bytes) -> bytes:
    """A file with nothing but this footer."""
    return MAGIC + footer + len(footer).to_bytes(4, "little") + MAGIC


def test_a_footer_says_what_pyarrow_reads(tmp_path: Path) -> None:
    table = pa.table({"id": ["a", "b", "c"] * 50, "tokens": [[1, 2]] * 150, "score": [0.5] * 150})
    pq.write_table(table, tmp_path / "file", row_group_size=60, use_dictionary=["id"])
    footer, metadata = footer_of((tmp_path / "file").read_bytes()), pq.read_metadata(tmp_path / "file")
    assert footer.rows == 150
    assert [group.rows for group in footer.groups] == [60, 60, 30]
    for number, group in enumerate(footer.groups):
        for place, chunk in enumerate(group.chunks):
            column = metadata.row_group(number).column(place)
            assert (chunk.column, chunk.values) == (column.path_in_schema, column.num_values)
            assert chunk.uncompressed == column.total_uncompressed_size
            assert chunk.compressed == column.total_compressed_size
            assert chunk.start == (column.dictionary_page_offset or column.data_page_offset)


def test_a_footer_of_known_bytes() -> None:
    """A file without columns, in the compact protocol: version 1, no schema, 7 rows, a row group of 7 rows."""
    group = b"\x19\x0c" + b"\x16\x00" + b"\x16\x0e" + b"\x00"  # no chunks; 0 bytes; 7 rows, zigzag; end
    footer = b"\x15\x02" + b"\x19\x0c" + b"\x16\x0e" + b"\x19\x1c" + group + b"\x00"
    parsed = footer_of(with_footer(footer))
    assert (parsed.rows, [(one.rows, one.chunks) for one in parsed.groups]) == (7, [(7, ())])


def test_a_dictionary_page_said_to_be_at_0_is_not_the_start() -> None:
    """Parquet's numbers: type 6 (BYTE_ARRAY), encoding 8 (RLE_DICTIONARY); data at 50, a dictionary page at 0."""
    metadata = b"\x15\x0c" + b"\x19\x15\x10" + b"\x19\x18\x01x" + b"\x15\x00" + b"\x16\x06" + b"\x16\x28" + b"\x16\x14"
    metadata += b"\x26\x64" + b"\x26\x00" + b"\x00"  # field 9 by its delta of 2, field 11 by its delta of 2
    chunk = b"\x26\x08" + b"\x1c" + metadata + b"\x00"
    group = b"\x19\x1c" + chunk + b"\x16\x28" + b"\x16\x06" + b"\x00"
    footer = b"\x15\x02" + b"\x19\x0c" + b"\x16\x06" + b"\x19\x1c" + group + b"\x00"
    (parsed,) = footer_of(with_footer(footer)).groups
    assert parsed.chunks == (Chunk("x", 6, (8,), values=3, uncompressed=20, compressed=10, start=50),)


REFUSED = {
    "empty": (b"", "does not end as one"),
    "too short": (b"PAR1", "does not end as one"),
    "another magic": (with_footer(b"\x00")[:-4] + b"PARX", "does not end as one"),
    "longer than the file": (MAGIC + (100).to_bytes(4, "little") + MAGIC, "does not end as one"),
    "no fields": (with_footer(b"\x00"), "its footer is damaged"),
    "cut short": (with_footer(b"\x15\x02\x19"), "its footer is damaged"),
    "a list longer than the footer": (with_footer(b"\x19\xfc\xff\xff\xff\x7f"), "its footer is damaged"),
    "nested without end": (with_footer(b"\x1c" * 100), "its footer is damaged"),
    "a number of more than 64 bits": (with_footer(b"\x16" + b"\xff" * 20), "its footer is damaged"),
    "rows that are text": (with_footer(b"\x38\x01x\x19\x0c\x00"), "its footer is damaged"),
    "a map": (with_footer(b"\x1b\x00\x00"), "its footer is damaged"),
}


@pytest.mark.parametrize(("data", "reason"), REFUSED.values(), ids=REFUSED.keys())
def test_what_is_no_footer_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(StorageError, match=rf"not a readable Parquet file.*{reason}"):
        footer_of(data)


def test_a_footer_that_is_too_large_is_refused_before_it_is_read(tmp_path: Path) -> None:
    with (tmp_path / "file").open("w+b") as file:
        file.seek(LARGEST_FOOTER + 100)
        file.write((LARGEST_FOOTER + 1).to_bytes(4, "little") + MAGIC)
        with pytest.raises(
            StorageError, match="its footer claims 33,554,433 bytes, at most 33,554,432 are read; rewrite"
        ):
            read_footer(file)


class OpenKeys(KmsClient):
    """A key management service for tests, whose master keys are in the open."""

    def wrap_key(self, key_bytes: bytes, master_key_identifier: str) -> str:
        """The key, readable."""
        return base64.b64encode(key_bytes).decode()

    def unwrap_key(self, wrapped_key: str, master_key_identifier: str) -> bytes:
        """The key."""
        return base64.b64decode(wrapped_key)


def encrypted(path: Path, plaintext_footer: bool) -> Path:
    """A file whose column `image` is encrypted."""
    options = EncryptionConfiguration(
        footer_key="footer", column_keys={"column": ["image"]}, plaintext_footer=plaintext_footer
    )
    properties = CryptoFactory(lambda _: OpenKeys()).file_encryption_properties(KmsConnectionConfig(), options)
    table = pa.table({"id": ["a"], "image": [b"x"]})
    with pq.ParquetWriter(path, table.schema, encryption_properties=properties) as writer:
        writer.write_table(table)
    return path


def test_an_encrypted_file_is_refused_as_such(tmp_path: Path) -> None:
    with (
        encrypted(tmp_path / "file", plaintext_footer=False).open("rb") as handle,
        pytest.raises(StorageError, match="an encrypted Parquet file; write it again without encryption"),
    ):
        read_footer(handle)


def test_only_encrypted_columns_are_refused_where_the_footer_is_not_encrypted(tmp_path: Path) -> None:
    path = encrypted(tmp_path / "file", plaintext_footer=True)
    footer = footer_of(path.read_bytes())
    assert [(chunk.column, chunk.encrypted) for chunk in footer.groups[0].chunks] == [("id", False), ("image", True)]
    check_claims(footer, path.stat().st_size, ["id"], "file")
    with pytest.raises(StorageError, match="row group 0, column 'image', is encrypted; write it again"):
        check_claims(footer, path.stat().st_size, ["id", "image"], "file")


def test_a_summary_of_other_files_is_refused_as_such(tmp_path: Path) -> None:
    table, collected = pa.table({"id": ["a"]}), list[pq.FileMetaData]()
    pq.write_table(table, tmp_path / "a.parquet", metadata_collector=collected)
    collected[0].set_file_path("a.parquet")
    pq.write_metadata(table.schema, tmp_path / "_metadata", collected)
    with (tmp_path / "_metadata").open("rb") as handle, pytest.raises(StorageError, match="name those files instead"):
        read_footer(handle)
