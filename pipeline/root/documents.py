"""The JSON documents that a run leaves under a root: written and read by the same frozen models.

A document keeps exactly the keys that it was made or read with, so that what an earlier version wrote has the same
keys when it is passed on: keys that this version does not know stay, and those that an earlier version lacked have
defaults but are not added. Digests are always of the bytes as stored.
"""

import json
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from infra.errors import Corrupt, Missing
from infra.storage.storage import Storage

RECORD_FORMAT = 1

JsonObject = dict[str, JsonValue]
"""A JSON object for output; what is stored has a model of its own."""


class DocumentPart(BaseModel):
    """A JSON object within a document."""

    model_config = ConfigDict(
        frozen=True, extra="allow", validate_by_name=True, validate_by_alias=True, serialize_by_alias=True
    )

    @property
    def json_object(self) -> JsonObject:
        """It as a JSON object, with the keys that it was made or read with."""
        return self.model_dump(mode="json", exclude_unset=True)

    # Version 0.1 returned dictionaries from Python; `summary["counts"]["flagged"]` still works.

    def __getitem__(self, key: str) -> JsonValue:
        """A value of the JSON object; raises KeyError if it has no such key."""
        return self.json_object[key]

    def get(self, key: str, default: JsonValue = None) -> JsonValue:
        """A value of the JSON object, or the default."""
        return self.json_object.get(key, default)


def optional_key() -> Any:
    """The default of a key that is not written where there is nothing to say."""
    return Field(default=None, exclude_if=lambda value: value is None)


class Document(DocumentPart):
    """A JSON document at rest."""

    def encode(self) -> bytes:
        """Its bytes as they are written; the same for a document that was read.

        Raises:
            ValueError: a number is not finite.
        """
        return json.dumps(self.json_object, indent=1, allow_nan=False).encode()


AnyDocument = TypeVar("AnyDocument", bound=Document)


def decode_document(data: bytes, kind: type[AnyDocument], place: str) -> AnyDocument:
    """A stored document as its type.

    Raises:
        Corrupt: it is not a JSON object, is damaged, or was written by a newer version.
    """
    try:
        body = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise Corrupt(f"{place}: not readable JSON ({error}); {_REMEDY}") from error
    if not isinstance(body, dict):
        raise Corrupt(f"{place}: not readable JSON (a {type(body).__name__}, not an object); {_REMEDY}")
    version = body.get("schema", body.get("format", RECORD_FORMAT))
    if not isinstance(version, int) or version > RECORD_FORMAT:
        raise Corrupt(f"{place}: has version {version}, this mad reads up to {RECORD_FORMAT}; upgrade mad to read it")
    try:
        return kind.model_validate(body)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise Corrupt(f"{place}: not readable ({where}: {first['msg']}); {_REMEDY}") from error


def read_document(storage: Storage, path: str, kind: type[AnyDocument]) -> AnyDocument | None:
    """The document at a path; None where there is none.

    Raises:
        Corrupt: as `decode_document`.
    """
    try:
        data = storage.read(path)
    except Missing:
        return None
    return decode_document(data, kind, storage.locate(path))


_REMEDY = "move it away; a model's summary.json is rewritten by the next run"
