"""Names on a disk whose server did what it was asked, and whose answer was lost: the repeated request is refused.

Audit hooks announce a system call just before it happens. So a process of its own can make the call there, as the
server did, before it makes it again.
"""

import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from infra.errors import AlreadyExists, Missing
from infra.storage.storage import Storage
from tests.processes import FORKED, ended

REFUSED = 7


def write(root: str, name: str) -> None:
    Storage(root).write(name, b"mine")


def create(root: str, name: str) -> None:
    Storage(root).create(name, b"mine")


def upload(root: str, name: str) -> None:
    Storage(root).upload(name, Path(root, "source"))


def publish(root: str, name: str) -> None:
    Storage(root).publish("source", name)


def _with_lost_answers(change: Callable[[], None]) -> None:
    repeated = set[str]()

    def answer_lost(event: str, arguments: tuple[object, ...]) -> None:
        call = {"os.link": os.link, "os.rename": os.replace}.get(event)
        source, target = map(str, arguments[:2]) if call is not None else ("", "")
        if call is not None and target not in repeated and not os.path.lexists(target):
            repeated.add(target)
            call(source, target)

    sys.addaudithook(answer_lost)
    try:
        change()
    except AlreadyExists:
        sys.exit(REFUSED)
    assert repeated


@pytest.mark.parametrize("change", [write, create, upload, publish])
def test_a_name_that_the_server_gave_already_is_ones_own(tmp_path: Path, change: Callable[[str, str], None]) -> None:
    root = Storage(str(tmp_path))
    root.write("source", b"mine")
    process = FORKED.Process(target=_with_lost_answers, args=(partial(change, root.url, "folder/name"),))
    process.start()
    assert ended(process) == 0
    assert root.read("folder/name") == b"mine"
    assert list(root.walk("")) == ["folder/name", "source"]


@pytest.mark.parametrize("change", [create, publish])
def test_a_name_that_another_has_is_not(tmp_path: Path, change: Callable[[str, str], None]) -> None:
    root = Storage(str(tmp_path))
    root.write("source", b"mine")
    root.create("name", b"mine")  # the same contents
    process = FORKED.Process(target=_with_lost_answers, args=(partial(change, root.url, "name"),))
    process.start()
    assert ended(process) == REFUSED


def test_a_scratch_file_that_is_gone_is_not_taken_for_done(tmp_path: Path) -> None:
    """As a cleaner of `.tmp` leaves it: another file has the name still."""
    root = Storage(str(tmp_path))
    root.write("name", b"earlier")
    process = FORKED.Process(target=_without_scratch, args=(root.url,))
    process.start()
    assert ended(process) == REFUSED
    assert root.read("name") == b"earlier"


def _without_scratch(root: str) -> None:
    sys.addaudithook(lambda event, arguments: os.unlink(str(arguments[0])) if event == "os.rename" else None)
    try:
        write(root, "name")
    except Missing:
        sys.exit(REFUSED)
