"""What a file is that is no Parquet file, by its first bytes, and what to do instead."""

import codecs
from typing import IO

LOOKED_AT = 512


CONVERT = "write the table as Parquet"


KINDS: tuple[tuple[int, bytes, str, str], ...] = (
    (0, b"PAR1", "begins as one and does not end as one", "was it copied whole?"),
    (0, b"ARROW1", "is an Arrow or Feather file", CONVERT),
    (0, b"\xff\xff\xff\xff", "is an Arrow stream, as datasets are saved to disk", f"{CONVERT}, as ds.to_parquet does"),
    (0, b"version https://git-lfs", "is a pointer of Git LFS, not the file itself", "run git lfs pull"),
    (0, b"ORC", "is an ORC file", CONVERT),
    (0, b"Obj\1", "is an Avro file", CONVERT),
    (0, b"\x89HDF", "is an HDF5 file", CONVERT),
    (0, b"SQLite format 3\0", "is an SQLite database", CONVERT),
    (8, b"DUCK", "is a DuckDB database", CONVERT),
    (0, b"\x93NUMPY", "is an array of NumPy", CONVERT),
    (0, b"PK\3\4", "is a ZIP archive or a spreadsheet", "unpack it, or save the sheet as CSV"),
    (0, b"\xff\xfe", "is text in UTF-16", "save it in UTF-8"),
    (0, b"\xfe\xff", "is text in UTF-16", "save it in UTF-8"),
    (0, b"\x1f\x8b", "is compressed by gzip", "unpack it: Parquet compresses its own columns"),
    (0, b"\x28\xb5\x2f\xfd", "is compressed by Zstandard", "unpack it: Parquet compresses its own columns"),
)
"""Where a signature stands, the signature, what the file is, and the remedy."""


def described(handle: IO[bytes]) -> str:
    """What an opened file is that is no Parquet file, and the remedy, as in "is text, perhaps CSV; ..."."""
    handle.seek(0)
    start = handle.read(LOOKED_AT)
    for place, mark, what, remedy in KINDS:
        if start[place : place + len(mark)] == mark:
            return f"it {what}; {remedy}"
    text = start.removeprefix(codecs.BOM_UTF8).lstrip()
    if text.lower().startswith((b"<!doctype html", b"<html")):
        return "it is a web page; the download gave a page instead of the file, download it again"
    if text.startswith((b"{", b"[")):
        return f"it is JSON; call it .jsonl if each line is an object, or {CONVERT}"
    if text and all(byte >= ord(" ") or byte in b"\t\r\n" for byte in start):
        return f"it is text, perhaps CSV; call it .csv if so, or {CONVERT}"
    return (
        f"it does not end as one; {CONVERT}" if start else "it does not end as one, it is empty; was it copied whole?"
    )
