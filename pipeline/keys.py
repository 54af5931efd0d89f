"""Keys: digests of everything that a result depends on, and of nothing else. What has the same key is reused."""

import json

from pydantic import JsonValue

from infra.storage.files import digest

KEY_LENGTH = 24


def key_of(**parts: JsonValue) -> str:
    """A digest of named JSON values, the same for the same values in any order of the names."""
    return digest(json.dumps(parts, sort_keys=True, separators=(",", ":"), allow_nan=False).encode())[:KEY_LENGTH]
