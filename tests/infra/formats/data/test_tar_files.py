"""WebDataset: samples by what names have in common; hostile tar files are refused, and names are only names."""

import io
import tarfile
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.errors import StorageError
from infra.formats.range_reader import RangeReader
from tests.infra.formats.data.samples import inspected, rows_of
from tests.strategies import LAW

ACCENT = "\u00e9"

Files = Sequence[tuple[str, bytes]]


def tar(files: Files, form: int = tarfile.USTAR_FORMAT) -> bytes:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w", format=form) as archive:
        for name, data in files:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return sink.getvalue()


SAMPLES: Files = [
    ("a/1.jpg", b"first"),
    ("a/1.cls", b"3\n"),
    ("a/1.json", b'{"caption": "a\\nb",\n "size": 1}'),
    ("a/2.PNG", b"second"),
    ("a/2.cls", b""),
    ("a/2.mask.png", b"ignored"),
    ("README", b"ignored"),
    (".hidden.txt", b"ignored"),
    ("b/3.v1.txt", b"ignored, for its ending is v1.txt"),
    ("b/3.txt", b" words "),
]


def test_the_files_of_a_sample_become_its_columns(tmp_path: Path) -> None:
    rows = rows_of(tmp_path, "x.tar", tar(SAMPLES))
    first = {"bytes": b"first", "error": None}
    second = {"bytes": b"second", "error": None}
    nothing = {"label": None, "text": None, "caption": None, "size": None}
    assert rows == [
        {"__key__": "a/1", "image": first, "label": 3, "text": None, "caption": "a\nb", "size": 1},
        {"__key__": "a/2", "image": second, **nothing},
        {"__key__": "b/3", "image": None, **nothing, "text": "words"},
    ]


def test_labels_are_names_where_one_is_no_number(tmp_path: Path) -> None:
    rows = rows_of(tmp_path, "x", tar([("1.cls", b"3"), ("2.cls", b"cat")]))
    assert rows == [{"__key__": "1", "label": "3"}, {"__key__": "2", "label": "cat"}]


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@LAW
@given(names=st.lists(st.integers(1, 220), min_size=1, max_size=6), data=st.data())
def test_ranges_in_any_order_equal_slicing_whatever_the_names(
    tmp_path_factory: pytest.TempPathFactory, form: int, names: list[int], data: st.DataObject
) -> None:
    lengths = [1 if form == tarfile.USTAR_FORMAT else length for length in names]
    keys = [f"{'d' * 60}/{row}{ACCENT * length}" for row, length in enumerate(lengths)]
    files = [(f"{key}.{kind}", key.encode()) for key in keys for kind in ("txt", "jpg")]
    file, table = inspected(tmp_path_factory.mktemp("tar"), "x.tar", tar(files, form))
    assert table.rows == len(keys)
    bounds = st.tuples(st.integers(0, len(keys)), st.integers(0, len(keys))).map(sorted)
    with RangeReader(file, ["__key__", "text"], 4, table.layout) as reader:
        for start, stop in data.draw(st.lists(bounds, max_size=4)):
            rows = [row for batch in reader.read(start, stop) for row in batch.to_pylist()]
            assert rows == [{"__key__": key, "text": key} for key in keys[start:stop]]


def test_names_that_lead_elsewhere_and_links_are_never_followed(tmp_path: Path) -> None:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w") as archive:
        for name, kind in (("1.jpg", tarfile.SYMTYPE), ("2.jpg", tarfile.LNKTYPE), ("3.jpg", tarfile.CHRTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            archive.addfile(info)
        info = tarfile.TarInfo("../../4.txt")
        info.size = 4
        archive.addfile(info, io.BytesIO(b"text"))
    assert rows_of(tmp_path, "x.tar", sink.getvalue()) == [{"__key__": "../../4", "text": "text"}]
    assert [path.name for path in tmp_path.iterdir()] == ["x.tar"]


def with_size(size: bytes) -> bytes:
    """A header that claims so many bytes."""
    header = bytearray(tar([("1.txt", b"text")])[:512])
    header[124:136] = size
    header[148:156] = b" " * 8
    header[148:156] = f"{sum(header):06o}\0 ".encode()
    return bytes(header) + bytes(2048)


HOSTILE = {
    "cut off": (tar([("1.txt", bytes(5000))])[:2000], r"ends in the middle of '1\.txt'; was it copied whole"),
    "a damaged header": (tar(SAMPLES)[:512] + b"x" * 2048, "a damaged tar file .no header at byte 1,024"),
    "a size beyond the end": (with_size(b"77777777777\0"), r"ends in the middle of '1\.txt'"),
    "a size below zero": (with_size(b"\xff" * 12), r"ends in the middle of '1\.txt'"),
    "a name of any length": (
        tar([("x" * 100_000 + ".txt", b"")], tarfile.GNU_FORMAT),
        "a name of 100,00. bytes",
    ),
    "a text of any length": (
        tar([("1.txt", b""), ("1.cls", bytes(17 << 20))]),
        r"row 0 .*'1\.cls' has 17,825,792 bytes",
    ),
    "no JSON": (tar([("1.json", b"{}"), ("2.json", b"{'a': 1}")]), r"row 1 \('2'\): its \.json cannot be read \("),
    "other types": (tar([("1.json", b'{"a": 1}'), ("2.json", b'{"a": "x"}')]), r"row 1 \('2'\): .*incompatible types"),
    "deep JSON": (tar([("1.json", b'{"a":' + b"[" * 10**6)]), "nested deeper than 64 levels"),
    "two images": (
        tar([("1.jpg", b""), ("1.png", b"")]),
        "the sample '1' has two files for the column 'image'",
    ),
    "gzip": (b"\x1f\x8b\x08" + bytes(600), "it is compressed by gzip; unpack it"),
}


@pytest.mark.parametrize(("data", "says"), HOSTILE.values(), ids=HOSTILE)
def test_a_tar_file_that_cannot_be_read_is_refused(tmp_path: Path, data: bytes, says: str) -> None:
    with pytest.raises(StorageError, match=says):
        inspected(tmp_path, "x.tar", data)
