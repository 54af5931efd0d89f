"""One driver at a time in a folder: a lock that needs nothing but exclusive creation, and no clock that two hosts agree on.

Claims are numbered files, each created exclusively; the highest number counts. An owner renews its lock by creating the next number,
and who takes a stale one over creates the next number too: of the two exactly one gets it, and an owner that slept through learns so.
A claim is stale at once where its owner is a dead process of this host, and otherwise when no other follows it for as long as its lease,
on the clock of who waits for it. A claim that says `released` is nobody's.

    FOLDER/000000000012.json    the claim that counts, and the one before it; older ones are removed
"""

import getpass
import logging
import os
import socket
import threading
import time
import uuid
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType

from pydantic import BaseModel, ConfigDict, Field

from infra.errors import AlreadyExists, Corrupt, LockHeld, Missing, StorageError
from infra.events import utc_stamp
from infra.formats.documents import encode, parse
from infra.storage.files import digest
from infra.storage.storage import Storage

LEASE_SECONDS = 60.0


RENEWALS = 4


log = logging.getLogger(__name__)


_own: set[str] = (
    set()
)  # ids of this process's owners that hold a lock: one whose release could not be written holds nothing


class Owner(BaseModel):
    """A process that holds a lock. `machine` tells hosts, their boots and their containers apart; `started` tells processes of one id apart."""

    model_config = ConfigDict(frozen=True)
    id: str
    user: str
    host: str
    machine: str
    pid: int
    started: str
    since: str

    @classmethod
    def here(cls) -> "Owner":
        """This process, as the owner of a new lock."""
        return cls(
            id=uuid.uuid4().hex,
            user=_user(),
            host=socket.gethostname(),
            machine=_machine(),
            pid=os.getpid(),
            started=_started(os.getpid()),
            since=utc_stamp(),
        )

    @property
    def here_now(self) -> bool | None:
        """Whether the process is alive; None where that cannot be known, because it is of another host."""
        if self.machine != _machine():
            return None
        return self.id in _own if self.pid == os.getpid() else _started(self.pid) == self.started

    def __str__(self) -> str:
        """For messages."""
        return f"process {self.pid} of {self.user} on {self.host}, since {self.since}"


class Claim(BaseModel):
    """What a numbered file says: who has the lock, for how long after the file appeared, or that it was released."""

    model_config = ConfigDict(frozen=True)
    owner: Owner
    lease_seconds: float = Field(gt=0)
    released: bool = False


class Lock:
    """The lock of a folder, held inside a `with` block and renewed by a thread of its own."""

    def __init__(self, storage: Storage, folder: str, lease_seconds: float = LEASE_SECONDS, owner: Owner | None = None):
        """Reads and writes nothing yet.

        Args:
            storage: where the folder is.
            folder: nothing else may be in it.
            lease_seconds: for how long after its last sign of life the owner keeps the lock.
            owner: this process, if none is named.
        """
        self._storage, self._folder, self._lease = storage, folder, lease_seconds
        self._claim = Claim(owner=owner or Owner.here(), lease_seconds=lease_seconds)
        self._number = -1
        self._renewing = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="lock", daemon=True)

    def __enter__(self) -> "Lock":
        """Takes the lock.

        Raises:
            LockHeld: another process has it, and is alive.
        """
        with ExitStack() as undo:
            _own.add(self._claim.owner.id)
            undo.callback(_own.discard, self._claim.owner.id)
            while not self._take():
                pass
            undo.pop_all()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Releases it; where the store fails meanwhile, the lease ends by itself."""
        self._ended.set()
        self._thread.join()
        _own.discard(self._claim.owner.id)
        with suppress(StorageError):
            self._advance(self._claim.model_copy(update={"released": True}))

    def holder(self) -> Owner | None:
        """Who has it, as far as can be told without waiting: an owner on another host may be gone. None where it is free."""
        claim = self._read(self._latest())
        return claim.owner if claim is not None and not claim.released and claim.owner.here_now is not False else None

    def check(self) -> None:
        """Renews the lock now.

        Raises:
            LockHeld: another process took it over, because this one gave no sign of life for as long as its lease.
        """
        try:
            self._advance(self._claim)
        except AlreadyExists as error:
            successor = self._read(self._latest())
            raise LockHeld(
                f"{self._storage.url}: this driver gave no sign of life for {self._lease:g} s, and another took its lock over"
                f" ({successor.owner if successor else 'unknown'}); what is done is kept, and that driver goes on with it"
            ) from error

    def _take(self) -> bool:
        """Tries once; False where the claim that counts has changed meanwhile."""
        latest = self._latest()
        found = self._read(latest)
        if found is not None and not found.released:
            alive = found.owner.here_now
            if alive:
                raise self._held(found)
            if alive is None:
                self._await_end(latest, found)
        elif found is None and latest >= 0:
            self._await_end(latest, None)
        self._number = latest
        try:
            self._advance(self._claim)
        except AlreadyExists:
            return False
        return True

    def _await_end(self, number: int, found: Claim | None) -> None:
        """Waits until a claim is stale; raises where it is renewed meanwhile."""
        lease = found.lease_seconds if found else self._lease
        log.warning(
            "%s is locked by %s; waiting up to %g s for a sign of life",
            self._storage.url,
            found.owner if found else "an unreadable claim",
            lease,
        )
        deadline = time.monotonic() + lease
        while time.monotonic() < deadline:
            time.sleep(lease / RENEWALS / 5)
            latest = self._latest()
            if latest != number:
                successor = self._read(latest)
                if successor is not None and not successor.released:
                    raise self._held(successor)
                return

    def _held(self, claim: Claim) -> LockHeld:
        return LockHeld(
            f"{self._storage.url}: another driver is at work in this root ({claim.owner}); wait until it has ended, or end it."
            f" Its lock needs no removing: it ends with that process on this host, and on another {claim.lease_seconds:g} s after its last sign of life"
        )

    def _keep(self) -> None:
        """Renews until the lock is released or lost. What the store fails to do once, it is asked to do again."""
        while not self._ended.wait(self._lease / RENEWALS):
            try:
                self._advance(self._claim)
            except AlreadyExists:
                return  # `check` tells
            except StorageError as error:
                log.warning("the lock could not be renewed: %s", error)

    def _advance(self, claim: Claim) -> None:
        """Makes the next claim, and removes those that nobody needs.

        Raises:
            AlreadyExists: somebody else has made a later one.
        """
        with self._renewing:
            self._storage.create(self._file(self._number + 1), encode(claim))
            self._number += 1
            numbers = self._numbers()
            if (
                max(numbers, default=-1) > self._number
            ):  # who took over may have removed the number that this one just got
                raise AlreadyExists(f"{self._storage.locate(self._file(max(numbers)))}: a later claim")
            for number in numbers:
                if number < self._number - 1:  # a listing made while claims come and go may miss one of two
                    with suppress(StorageError):
                        self._storage.remove(self._file(number))

    def _latest(self) -> int:
        """The highest number; -1 where there is no claim."""
        return max(self._numbers(), default=-1)

    def _numbers(self) -> list[int]:
        names = (name.removesuffix(".json") for name in self._storage.list(self._folder))
        return [int(name) for name in names if name.isdecimal()]

    def _read(self, number: int) -> Claim | None:
        """A claim; None where there is none, or not one that can be read."""
        try:
            return parse(self._storage.read(self._file(number)), Claim, self._storage.locate(self._file(number)))
        except (Missing, Corrupt):
            return None

    def _file(self, number: int) -> str:
        return f"{self._folder}/{max(number, 0):012d}.json"


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a user id without a name, as containers have
        return str(os.getuid())


def _machine() -> str:
    """A digest of what a process id means something in: the host, its boot, the namespace of its process ids."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    namespace = Path("/proc/self/ns/pid")
    parts = [
        socket.gethostname(),
        boot.read_text(encoding="ascii") if boot.exists() else "",
        os.readlink(namespace) if namespace.exists() else "",
    ]
    return digest("\0".join(parts).encode())[:16]


def _started(pid: int) -> str:
    """When a process of this host started, in its kernel's own ticks; "" where there is none, or only its exit status is left.

    Where there is no /proc, "?" for every process that there is.
    """
    if not Path("/proc/self/stat").exists():
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return ""
        except PermissionError:
            return "?"
        return "?"
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return ""
    return "" if fields[0] in "ZX" else fields[19]
