"""A file that is no Parquet file is called what it is, with the remedy."""

import io

import pyarrow as pa
import pytest

from infra.errors import StorageError
from infra.formats.parquet_footer import read_footer


def stream() -> bytes:
    """A table as Hugging Face datasets keep it on disk."""
    sink, table = io.BytesIO(), pa.table({"id": ["a"]})
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


FILES = {
    "an Arrow file": (b"ARROW1\0\0" + bytes(50), "it is an Arrow or Feather file; write the table as Parquet"),
    "an Arrow stream": (stream(), "it is an Arrow stream, .*; write the table as Parquet, as ds.to_parquet does"),
    "a pointer of LFS": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0",
        "not the file .*; run git lfs pull",
    ),
    "CSV": (b"id,label\na,1\nb,2\n", "it is text, perhaps CSV; call it .csv if so, or write the table as Parquet"),
    "CSV with accents": ("id,label\n\u00e9,1\n".encode(), "it is text, perhaps CSV"),
    "lines of JSON": (
        b'{"id": "a"}\n{"id": "b"}\n',
        "it is JSON; call it .jsonl if each line is an object, or write the table as Parquet",
    ),
    "a page of a server": (b"<!DOCTYPE html><html>404</html>", "a page instead of the file, download it again"),
    "gzip": (b"\x1f\x8b\x08" + bytes(50), "it is compressed by gzip; unpack it: Parquet compresses its own columns"),
    "a database": (bytes(8) + b"DUCK" + bytes(50), "it is a DuckDB database; write the table as Parquet"),
    "the beginning of one": (b"PAR1" + bytes(50), "begins as one and does not end as one; was it copied whole?"),
    "anything": (bytes(100), "it does not end as one; write the table as Parquet"),
    "nothing": (b"", "it is empty; was it copied whole?"),
}


@pytest.mark.parametrize(("data", "says"), FILES.values(), ids=FILES)
def test_what_is_no_parquet_file_is_named_with_the_remedy(data: bytes, says: str) -> None:
    with pytest.raises(StorageError, match=f"^not a readable Parquet file: .*{says.replace('?', '[?]')}"):
        read_footer(io.BytesIO(data))
