"""Arrow schemas as text in documents."""

import base64
from functools import lru_cache

import pyarrow as pa

from infra.errors import Corrupt


def encode_schema(schema: pa.Schema) -> str:
    """A schema without its metadata, as text."""
    return base64.b64encode(schema.remove_metadata().serialize().to_pybytes()).decode()


@lru_cache(maxsize=64)
def decode_schema(text: str) -> pa.Schema:
    """The schema of a text.

    Raises:
        Corrupt: it is of none.
    """
    try:
        return pa.ipc.read_schema(pa.BufferReader(base64.b64decode(text, validate=True)))
    except (ValueError, pa.ArrowException, OSError) as error:
        raise Corrupt(f"a recorded schema of a data file is damaged ({error}); run the audit again") from error
