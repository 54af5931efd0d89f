"""The mark that makes a folder a root: made once, never in a folder of other files, and refused when newer."""

from pathlib import Path

import pytest

from infra.storage.storage import Storage
from pipeline.errors import RootError
from pipeline.root.mark import MARK, RootInfo, check_root, claim_root, open_root, root_lock, root_storage


def test_a_root_is_claimed_once_and_keeps_its_audit_id(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path / "root"))
    assert check_root(storage) is None
    first = claim_root(storage)
    assert claim_root(storage) == first == open_root(storage) == check_root(storage)
    assert len(first.audit) == 32 and int(first.audit, 16) >= 0


def test_two_roots_have_different_audit_ids(tmp_path: Path) -> None:
    assert claim_root(Storage(str(tmp_path / "a"))).audit != claim_root(Storage(str(tmp_path / "b"))).audit


def test_a_folder_of_other_files_is_no_root_and_stays_as_it_is(tmp_path: Path) -> None:
    for name in ("one", "two", "three", "zoo"):
        (tmp_path / name).write_text("x")
    with pytest.raises(RootError, match=r"not a root, because it holds files \(one, three, two\) but no mad\.json"):
        claim_root(Storage(str(tmp_path)))
    assert not (tmp_path / MARK).exists()


def test_an_empty_folder_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(RootError, match="not a root, there is nothing here; `mad run CONFIG` makes one"):
        open_root(Storage(str(tmp_path)))


@pytest.mark.parametrize(
    ("data", "says"), [(b'{"format": 2, "audit": "a"}', "written in format 2"), (b"{", "cannot be read")]
)
def test_a_newer_or_damaged_mark_is_refused(tmp_path: Path, data: bytes, says: str) -> None:
    (tmp_path / MARK).write_bytes(data)
    with pytest.raises(RootError, match=says):
        open_root(Storage(str(tmp_path)))


def test_a_mark_of_an_early_version_needs_no_seal(tmp_path: Path) -> None:
    (tmp_path / MARK).write_bytes(b'{"format": 1, "audit": "a"}')
    assert open_root(Storage(str(tmp_path))) == RootInfo(audit="a")


def test_an_unknown_protocol_is_refused() -> None:
    with pytest.raises(RootError, match=r"^root "):
        root_storage("nosuch://bucket/root")


def test_the_lock_of_a_root_names_the_process_that_holds_it(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    assert root_lock(storage).holder() is None
    with root_lock(storage):
        assert root_lock(storage).holder() is not None
    assert root_lock(storage).holder() is None
