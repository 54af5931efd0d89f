"""Stored JSON documents.

Each has its format version, and a seal: a digest of everything else in it, so that a flipped bit does not go unnoticed.
"""

import json
from typing import TypeVar

from pydantic import BaseModel, JsonValue, ValidationError

from infra.errors import Corrupt
from infra.storage.files import digest

FORMAT = 1
SEAL = "seal"

AnyModel = TypeVar("AnyModel", bound=BaseModel)


def encode(document: BaseModel) -> bytes:
    """The bytes of a document with its seal; equal documents have equal bytes."""
    body: dict[str, JsonValue] = document.model_dump(mode="json")
    return json.dumps({**body, SEAL: _digest(body)}, indent=1, allow_nan=False).encode()


def parse(data: bytes, kind: type[AnyModel], place: str) -> AnyModel:
    """A stored document as its type. One without a seal is of an earlier version, and is accepted unchecked.

    Args:
        data: its bytes.
        kind: its type.
        place: the file as errors name it.

    Raises:
        Corrupt: it is damaged, or written by a newer version.
    """
    try:
        body = json.loads(data)
        seal = body.pop(SEAL, None) if isinstance(body, dict) else None
        document = kind.model_validate(body)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the document"
        raise Corrupt(
            f"{place}: cannot be read ({where}: {first['msg']}); it is damaged, or written by a newer mad"
        ) from error
    except (ValueError, RecursionError) as error:
        raise Corrupt(
            f"{place}: cannot be read (the document: Invalid JSON: {error}); it is damaged, or written by a newer mad"
        ) from error
    version = getattr(document, "format", FORMAT)
    if version > FORMAT:
        raise Corrupt(f"{place}: written in format {version}, this mad reads up to {FORMAT}; upgrade mad to read it")
    if seal is not None and seal != _digest(body):
        raise Corrupt(f"{place}: is damaged, it does not hold what was written (its seal differs)")
    return document


def _digest(body: dict[str, JsonValue]) -> str:
    return digest(json.dumps(body, sort_keys=True, separators=(",", ":")).encode())
