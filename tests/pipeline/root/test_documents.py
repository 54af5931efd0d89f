"""Documents of runs: the same model writes and reads them, with the keys that they were made with."""

import json

import pytest
from pydantic import JsonValue

from infra.errors import Corrupt
from infra.storage.storage import Storage
from pipeline.root.documents import Document, DocumentPart, decode_document, optional_key, read_document


class Inner(DocumentPart):
    """A part with a key that may be null, and one that may be absent."""

    nullable: int | None = None
    absent: int | None = optional_key()


class Outer(Document):
    """A document of parts."""

    format: int = 1
    share: float = 0.0
    inner: Inner = Inner()
    items: tuple[Inner, ...] = ()


def body(document: Document) -> JsonValue:
    found: JsonValue = json.loads(document.encode())
    return found


def test_keys_are_written_where_they_were_given_and_optional_ones_where_they_say_something() -> None:
    document = Outer(format=1, inner=Inner(nullable=None, absent=None), items=(Inner(absent=3), Inner()))
    assert body(document) == {"format": 1, "inner": {"nullable": None}, "items": [{"absent": 3}, {}]}


def test_a_document_can_be_read_like_the_dictionary_that_it_was_in_version_0_1() -> None:
    document = Outer(format=1, inner=Inner(nullable=2))
    assert document["inner"] == {"nullable": 2}
    assert document.get("share") is None and document.get("share", 1.0) == 1.0
    with pytest.raises(KeyError, match="share"):
        document["share"]


def test_a_document_is_written_in_lines_in_the_order_of_its_fields() -> None:
    assert Outer(share=0.5, format=1).encode() == b'{\n "format": 1,\n "share": 0.5\n}'


def test_numbers_that_are_not_finite_are_never_written() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        Outer(share=float("nan")).encode()


@pytest.mark.parametrize(
    "data",
    [
        b'{\n "format": 1\n}',
        b'{\n "inner": {\n  "nullable": 7\n },\n "later": {\n  "key": [\n   1.0,\n   null\n  ]\n }\n}',
        b'{\n "share": 1e-05,\n "items": [\n  {\n   "unknown": "x"\n  }\n ]\n}',
    ],
    ids=["fewer keys", "an unknown key", "an unknown key within"],
)
def test_what_was_read_is_written_as_it_was(data: bytes) -> None:
    assert decode_document(data, Outer, "here").encode() == data


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b'{"format": 1', "here: not readable JSON (Expecting"),
        (b"[" * 100_000, "here: not readable JSON ("),
        (b"\xff", "here: not readable JSON ("),
        (b"[1]", "here: not readable JSON (a list, not an object)"),
        (b'{"format": 2}', "here: has version 2, this mad reads up to 1; upgrade mad to read it"),
        (b'{"schema": 2}', "here: has version 2, this mad reads up to 1; upgrade mad to read it"),
        (b'{"format": "one"}', "here: has version one, this mad reads up to 1"),
        (b'{"inner": {"nullable": "many"}}', "here: not readable (inner.nullable: Input should be a valid integer"),
    ],
)
def test_what_is_damaged_or_newer_is_refused_with_its_place(data: bytes, says: str) -> None:
    with pytest.raises(Corrupt) as refused:
        decode_document(data, Outer, "here")
    assert str(refused.value).startswith(says)


def test_a_document_that_is_not_there_is_none_and_one_that_is_damaged_is_named(tmp_path: object) -> None:
    storage = Storage(str(tmp_path))
    assert read_document(storage, "gone.json", Outer) is None
    storage.write("there.json", Outer(share=0.25).encode())
    assert read_document(storage, "there.json", Outer) == Outer(share=0.25)
    storage.write("damaged.json", b"{")
    with pytest.raises(Corrupt, match=r"damaged\.json: not readable JSON"):
        read_document(storage, "damaged.json", Outer)
