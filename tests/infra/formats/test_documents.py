"""JSON documents: equal ones are equal bytes; damaged and newer ones are refused, those without a seal are read."""

import json

import pytest
from pydantic import BaseModel

from infra.errors import Corrupt
from infra.formats.documents import FORMAT, SEAL, encode, parse
from infra.storage.files import digest


class Note(BaseModel):
    """A document."""

    format: int = FORMAT
    text: str
    number: float = 0.5


NOTE = Note(text="ü", number=1.25)


def test_a_document_is_read_as_it_was_written() -> None:
    assert parse(encode(NOTE), Note, "here") == NOTE
    assert encode(Note(text="ü", number=1.25)) == encode(NOTE)


def test_the_seal_is_the_digest_of_everything_else_in_canonical_form() -> None:
    document = json.loads(encode(NOTE))
    assert document.pop(SEAL) == digest(b'{"format":1,"number":1.25,"text":"\\u00fc"}')
    assert document == {"format": 1, "text": "ü", "number": 1.25}


def test_what_json_cannot_hold_is_not_written() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        encode(Note(text="", number=float("nan")))


def test_a_document_without_a_seal_is_of_an_earlier_version_and_is_read() -> None:
    assert parse(b'{"text": "a", "number": 2}', Note, "here") == Note(text="a", number=2)


CHANGED = json.dumps({**json.loads(encode(NOTE)), "number": 9}).encode()
NEWER = json.dumps({"format": FORMAT + 1, "text": "a"}).encode()
REFUSED = {
    "changed": (CHANGED, r"^here: is damaged, it does not hold what was written \(its seal differs\)$"),
    "newer": (NEWER, r"^here: written in format 2, this mad reads up to 1; upgrade mad to read it$"),
    "a field of another type": (
        b'{"text": []}',
        r"^here: cannot be read \(text: .*\); it is damaged, or written by a ",
    ),
    "not a mapping": (b"[1]", r"^here: cannot be read \(the document: .*\); it is damaged"),
    "not JSON": (b"{", r"^here: cannot be read \(the document: Invalid JSON: .*\); it is damaged"),
    "not text": (b"\xff\xfe\xff", r"^here: cannot be read \(the document: Invalid JSON: .*\); it is damaged"),
    "too deep": (b"[" * 200_000, r"^here: cannot be read \(the document: Invalid JSON: .*\); it is damaged"),
}


@pytest.mark.parametrize(("data", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_what_cannot_be_read_is_refused_with_its_place(data: bytes, message: str) -> None:
    with pytest.raises(Corrupt, match=message):
        parse(data, Note, "here")
