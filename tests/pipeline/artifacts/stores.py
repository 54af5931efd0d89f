"""Files of an artifact, written to a storage of their own."""

from collections.abc import Mapping
from pathlib import Path

from infra.storage.storage import Storage


def stored(folder: Path, files: Mapping[str, bytes]) -> Storage:
    """A storage that has these files in its folder `task`."""
    storage = Storage(str(folder))
    for name, data in files.items():
        storage.write(f"task/{name}", data)
    return storage
