"""Everything that can be asked of a storage, and the message of the error when it cannot be answered."""

from collections.abc import Callable

import pytest

from infra.errors import AlreadyExists, Missing, StorageError
from infra.formats.arrays import open_array
from infra.storage.files import find
from infra.storage.storage import Storage

ASKS: dict[str, Callable[[Storage], object]] = {
    "read": lambda storage: storage.read("name"),
    "open": lambda storage: storage.open("name"),
    "list": lambda storage: storage.list(""),
    "walk": lambda storage: list(storage.walk("")),
    "exists": lambda storage: storage.exists("name"),
    "write": lambda storage: storage.write("name", b"1"),
    "create": lambda storage: storage.create("name", b"1"),
    "probe": lambda storage: storage.refuse_without_exclusive_create(),
    "array": lambda storage: open_array(storage, "name"),
    "find": lambda storage: find("data/*", f"{storage.url}/data/*"),
    "find one": lambda storage: find("data", f"{storage.url}/data"),
}

all_asks = pytest.mark.parametrize("ask", ASKS.values(), ids=ASKS.keys())


def complaint(ask: Callable[[], object]) -> str:
    """The message of the error that a call raises: one line that does not mention botocore."""
    with pytest.raises(StorageError) as caught:
        ask()
    assert not isinstance(caught.value, Missing | AlreadyExists)
    message = str(caught.value)
    assert "\n" not in message and "botocore" not in message and "operation" not in message
    return message
