"""JSON documents at rest. Each says its format, and is sealed: with a digest of all else that it says, so that a flipped bit cannot say something else."""

import json
from typing import TypeVar

from pydantic import BaseModel, JsonValue, ValidationError

from infra.errors import Corrupt
from infra.storage.files import digest

FORMAT = 1


SEAL = "seal"


Document = TypeVar("Document", bound=BaseModel)


def encode(document: BaseModel) -> bytes:
    """A document's bytes, with its seal; the same for equal documents."""
    body: dict[str, JsonValue] = document.model_dump(mode="json")
    return json.dumps({**body, SEAL: _digest(body)}, indent=1, allow_nan=False).encode()


def parse(data: bytes, kind: type[Document], place: str) -> Document:
    """A stored document as its type. One without a seal is of an earlier version, and is taken at its word.

    Raises:
        Corrupt: it is damaged, or newer than this version reads.
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
        raise Corrupt(f"{place}: is damaged, it does not say what was written (its seal differs)")
    return document


def _digest(body: dict[str, JsonValue]) -> str:
    return digest(json.dumps(body, sort_keys=True, separators=(",", ":")).encode())
