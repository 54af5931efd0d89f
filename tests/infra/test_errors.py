"""Errors of storage are also the built-in errors that a caller would catch."""

import pytest

from infra.errors import AlreadyExists, ClusterError, ClusterLost, Corrupt, Missing, NotCommitted, StorageError

KINDS = [
    (AlreadyExists, FileExistsError),
    (Missing, FileNotFoundError),
    (Corrupt, ValueError),
    (NotCommitted, OSError),
    (ClusterLost, ClusterError),
]


@pytest.mark.parametrize(("kind", "caught_as"), KINDS)
def test_an_error_is_caught_as_the_built_in_one(kind: type[Exception], caught_as: type[Exception]) -> None:
    with pytest.raises(caught_as, match=r"^here: why$"):
        raise kind("here: why")


def test_a_lost_cluster_is_no_failure_of_storage() -> None:
    assert not issubclass(ClusterError, StorageError | OSError)
