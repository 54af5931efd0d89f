"""Errors of the operating system as this project's errors, with the place and the remedy."""

import errno

import pytest

from infra.errors import AlreadyExists, Corrupt, Missing, StorageError, Unwritable
from infra.storage.system_errors import translated_errors

ERRORS = {
    "exists": (FileExistsError(), AlreadyExists, "here: already exists"),
    "missing": (FileNotFoundError(), Missing, "here: no such file"),
    "forbidden": (
        PermissionError(),
        Unwritable,
        "here: permission denied; give this user the right to read and write there",
    ),
    "no folder": (NotADirectoryError(), StorageError, "here: a part of this path is a file, not a folder"),
    "full": (
        OSError(errno.ENOSPC, "No space left on device"),
        Unwritable,
        "here: No space left on device; make room on that disk, then run again; what is done is kept",
    ),
    "read-only": (
        OSError(errno.EROFS, "Read-only file system"),
        Unwritable,
        "here: Read-only file system; mount that disk for writing, or choose another root, then run again;"
        " what is done is kept",
    ),
    "another": (OSError(errno.EIO, "Input/output error"), StorageError, "here: Input/output error"),
    "without a number": (OSError("the tape is torn"), StorageError, "here: the tape is torn"),
}


@pytest.mark.parametrize(("error", "kind", "message"), ERRORS.values(), ids=ERRORS.keys())
def test_an_error_names_the_place_and_the_remedy(error: OSError, kind: type[StorageError], message: str) -> None:
    with pytest.raises(StorageError) as caught, translated_errors("here"):
        raise error
    assert (type(caught.value), str(caught.value), caught.value.__cause__) == (kind, message, error)


@pytest.mark.parametrize("error", [Corrupt("there: damaged"), ValueError("not of the system")])
def test_other_errors_pass_unchanged(error: Exception) -> None:
    with pytest.raises(type(error)) as caught, translated_errors("here"):
        raise error
    assert caught.value is error


class HubError(Exception):
    """As libraries behind other protocols have."""


def test_an_error_of_a_library_is_told_and_a_fault_of_the_code_is_not_hidden() -> None:
    says = "here: HubError: the hub is closed; check that it is there and can be reached"
    with pytest.raises(StorageError, match=says), translated_errors("here"):
        raise HubError("the hub\nis closed")
    with pytest.raises(TypeError), translated_errors("here"):
        raise TypeError("a fault")
