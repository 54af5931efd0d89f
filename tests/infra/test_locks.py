"""One driver at a time: who is refused, which lock is stale, and how a driver that slept learns that it lost it."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from infra.errors import AlreadyExists, LockHeld
from infra.formats.documents import encode
from infra.locks import Claim, Lock
from infra.owners import Owner
from infra.storage import removal
from infra.storage.storage import Storage
from tests.infra.stores import another_client

FOLDER = ".lock"
REPOSITORY = Path(__file__).parents[2]

HOLDER = """
import sys, time
from infra.locks import Lock
from infra.owners import Owner
from infra.storage.storage import Storage

owner = Owner.here().model_copy(update={"machine": sys.argv[3]} if sys.argv[3] else {})
with Lock(Storage(sys.argv[1]), ".lock", float(sys.argv[2]), owner) as lock:
    print("held", flush=True)
    for line in sys.stdin:
        lock.check()
        print("still held", flush=True)
"""


def elsewhere() -> Owner:
    """A process of another machine, as this one sees it: it may be alive or not."""
    return Owner.here().model_copy(update={"machine": "another", "host": "far-away"})


@contextmanager
def holder(root: str, lease: float = 60, machine: str = "") -> Iterator["subprocess.Popen[str]"]:
    """A process that holds the lock until its input ends; for each line of input it reports whether it still does."""
    command = [sys.executable, "-c", HOLDER, root, str(lease), machine]
    with subprocess.Popen(
        command, cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        yield process


def test_a_lock_is_refused_while_another_holds_it_and_free_when_that_ends(storage: Storage) -> None:
    other = another_client(storage)
    with Lock(storage, FOLDER):
        owner = rf"process {os.getpid()} of .* on .*"
        with pytest.raises(LockHeld, match=rf"at work in this root \({owner}\); wait until it has ended, or end it\."):
            Lock(other, FOLDER).__enter__()
        assert len(storage.list(FOLDER)) <= 2
    with Lock(other, FOLDER) as again:
        again.check()


def test_the_lock_of_a_killed_process_of_this_host_is_free_at_once(tmp_path: Path) -> None:
    with holder(str(tmp_path)) as process:
        with pytest.raises(LockHeld, match=rf"process {process.pid} of "):
            Lock(Storage(str(tmp_path)), FOLDER).__enter__()
        process.kill()
        while Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
            time.sleep(0.01)
        start = time.monotonic()
        with Lock(Storage(str(tmp_path)), FOLDER):
            assert time.monotonic() - start < 30, "its lease, 60 s, was waited for"


def test_a_process_that_has_the_id_of_the_owner_but_started_later_is_not_the_owner(storage: Storage) -> None:
    gone = Owner.here().model_copy(update={"started": "1"})
    storage.create(f"{FOLDER}/000000000000.json", encode(Claim(owner=gone, lease_seconds=60)))
    with Lock(storage, FOLDER) as lock:
        lock.check()


def test_an_owner_elsewhere_that_renews_its_lock_keeps_it(storage: Storage) -> None:
    with (
        Lock(another_client(storage), FOLDER, lease_seconds=2, owner=elsewhere()),
        pytest.raises(LockHeld, match=r"on far-away, since .* and on another host 2 s after its last renewal"),
    ):
        Lock(storage, FOLDER).__enter__()


def test_the_lock_of_an_owner_elsewhere_that_does_not_is_taken_over_after_its_lease(storage: Storage) -> None:
    storage.create(f"{FOLDER}/000000000007.json", encode(Claim(owner=elsewhere(), lease_seconds=0.5)))
    start = time.monotonic()
    with Lock(storage, FOLDER) as lock:
        assert time.monotonic() - start >= 0.5
        lock.check()
        assert storage.list(FOLDER)[-1] == "000000000009.json"


@pytest.mark.parametrize("content", [b"", b"{", b'{"owner": 1}'])
def test_a_claim_that_cannot_be_read_holds_for_a_lease_and_no_longer(storage: Storage, content: bytes) -> None:
    storage.create(f"{FOLDER}/000000000003.json", content)
    with Lock(storage, FOLDER, lease_seconds=0.5):
        assert storage.list(FOLDER) == ["000000000003.json", "000000000004.json"]


def test_a_driver_that_slept_through_its_lease_learns_that_another_has_taken_over(tmp_path: Path) -> None:
    with holder(str(tmp_path), lease=1, machine="another") as sleeper:
        sleeper.send_signal(signal.SIGSTOP)
        with Lock(Storage(str(tmp_path)), FOLDER) as lock:
            lock.check()
            lock.check()
            sleeper.send_signal(signal.SIGCONT)
            _, errors = sleeper.communicate("still there?\n", timeout=60)
            assert sleeper.returncode == 1
            successor = f"another took it over (process {os.getpid()} of"
            assert f"this driver did not renew its lock for 1 s, and {successor}" in errors
            lock.check()


def remove(storage: Storage) -> None:
    storage.remove("file")


def remove_all(storage: Storage) -> None:
    removal.remove_all(storage, ["file"])


def write(storage: Storage) -> None:
    storage.write("file", b"late")


def create(storage: Storage) -> None:
    storage.create("other", b"late")


def upload(storage: Storage) -> None:
    storage.upload("file", REPOSITORY / "README.md")


def publish(storage: Storage) -> None:
    storage.publish("file", "other")


def taken_over(storage: Storage) -> None:
    """Makes another driver, elsewhere, the owner, between two renewals."""
    claim = encode(Claim(owner=elsewhere(), lease_seconds=60))
    while True:
        number = max(int(name.removesuffix(".json")) for name in storage.list(FOLDER)) + 1
        with suppress(AlreadyExists):
            return storage.create(f"{FOLDER}/{number:012d}.json", claim)


@pytest.mark.parametrize("change", [remove, remove_all, write, create, upload, publish])
def test_a_driver_that_lost_its_lock_changes_nothing_any_more(
    storage: Storage, change: Callable[[Storage], None]
) -> None:
    storage.write("file", b"theirs")
    with Lock(storage, FOLDER, lease_seconds=0.4) as lock:
        guarded = lock.guarded()
        guarded.write("file", b"mine")
        taken_over(another_client(storage))
        storage.write("file", b"theirs")
        time.sleep(0.4)  # a lease: before it, nobody can take over
        with pytest.raises(LockHeld, match=r"another took it over \(process \d+ of .* on far-away"):
            change(guarded)
    assert storage.read("file") == b"theirs"
    assert storage.list("") == ["file"]


def test_making_sure_of_a_lock_just_renewed_asks_nobody(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    with Lock(storage, FOLDER) as lock:
        before = storage.list(FOLDER)
        for _ in range(100):
            lock.confirm()
        assert storage.list(FOLDER) == before
        lock.check()
        assert storage.list(FOLDER) != before


def test_of_many_that_take_over_a_stale_lock_at_once_one_gets_it(tmp_path: Path) -> None:
    for number in range(10):
        root = Storage(str(tmp_path / f"{number}"))
        root.create(
            f"{FOLDER}/000000000000.json",
            encode(Claim(owner=Owner.here().model_copy(update={"started": "1"}), lease_seconds=60)),
        )
        with ExitStack() as held, ThreadPoolExecutor(8) as pool:

            def take(_: int, root: Storage = root, held: ExitStack = held) -> bool:
                try:
                    held.enter_context(Lock(Storage(root.url), FOLDER))
                except LockHeld:
                    return False
                return True

            assert sum(pool.map(take, range(8))) == 1


def test_renewals_leave_no_more_than_two_files(tmp_path: Path) -> None:
    root = Storage(str(tmp_path))
    with Lock(root, FOLDER, lease_seconds=0.2):
        deadline = time.monotonic() + 60
        while root.list(FOLDER)[-1] < "000000000009.json":
            assert time.monotonic() < deadline, "nothing renews"
            time.sleep(0.02)
    assert len(root.list(FOLDER)) == 2
