"""Temporary files: a full disk is named, with what helps."""

import tempfile
from pathlib import Path

import pytest

from infra.errors import Unwritable
from infra.storage.scratch import scratch_errors, scratch_folder


def test_a_full_disk_of_temporary_files_is_named_with_the_remedy() -> None:
    with (
        pytest.raises(
            Unwritable, match=r"temporary files in /dev: No space left on device; .* set TMPDIR to a folder on"
        ),
        scratch_errors("/dev"),
        Path("/dev/full").open("wb", buffering=0) as file,
    ):
        file.write(b"x")


def test_other_errors_stay_as_they_are() -> None:
    with pytest.raises(FileNotFoundError), scratch_errors("/tmp"):
        raise FileNotFoundError


def test_a_folder_is_private_and_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with scratch_folder() as folder:
        (folder / "table").write_bytes(b"x")
        assert folder.parent == tmp_path and folder.stat().st_mode & 0o777 == 0o700
    assert list(tmp_path.iterdir()) == []


def test_where_nothing_takes_temporary_files_the_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: ["/none"])
    with pytest.raises(Unwritable, match=r"set TMPDIR to a folder with room"), scratch_folder():
        pass
