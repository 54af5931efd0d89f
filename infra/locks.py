"""One driver at a time in a folder: a lock that needs only exclusive creation, and no clock that two hosts agree on.

Claims are numbered files, each created exclusively; the highest number counts. An owner renews its lock by creating the
next number, and a driver that takes over a stale lock creates the next number too: exactly one of the two succeeds, and
an owner that slept learns that way that it lost the lock. A claim is stale at once where its owner is a dead process of
this host, and otherwise when no other claim follows it for as long as its lease, on the clock of the process that waits
for it. A claim with `released` has no owner.

An owner makes sure of its lock right before each change (`confirm`; `guarded` does for all changes of a storage). One
change can still come late, that of a process which is suspended in between; see `infra.guarded.undoing`.

    FOLDER/000000000012.json    the claim that counts, and the one before it; older ones are removed
"""

import logging
import threading
import time
from contextlib import ExitStack, suppress
from types import TracebackType

from pydantic import BaseModel, ConfigDict, Field

from infra.errors import AlreadyExists, Corrupt, LockHeld, Missing, StorageError
from infra.events import Age
from infra.formats.documents import encode, parse
from infra.guarded import GuardedStorage
from infra.owners import HOLDING, Owner
from infra.storage.storage import Storage

LEASE_SECONDS = 60.0
RENEWALS = 4
SURE = 0.5  # of the lease: an owner that renewed its lock more recently has it for certain

log = logging.getLogger(__name__)


class Claim(BaseModel):
    """The contents of a numbered file: who has the lock, for how long after the file appeared, or its release."""

    model_config = ConfigDict(frozen=True)
    owner: Owner
    lease_seconds: float = Field(gt=0)
    released: bool = False


class Lock:
    """The lock of a folder, held inside a `with` block and renewed by a thread."""

    def __init__(self, storage: Storage, folder: str, lease_seconds: float | None = None, owner: Owner | None = None):
        """Reads and writes nothing yet.

        Args:
            storage: where the folder is.
            folder: nothing else may be in it.
            lease_seconds: how long after its last renewal the owner keeps the lock; LEASE_SECONDS by default.
            owner: this process by default.
        """
        self._storage, self._folder, self._lease = storage, folder, lease_seconds or LEASE_SECONDS
        self._claim = Claim(owner=owner or Owner.here(), lease_seconds=self._lease)
        self._number = -1
        self._renewed: Age | None = None
        self._renewing = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="lock", daemon=True)

    def __enter__(self) -> "Lock":
        """Take the lock.

        Raises:
            LockHeld: another process has it, and is alive.
        """
        with ExitStack() as undo:
            HOLDING.add(self._claim.owner.id)
            undo.callback(HOLDING.discard, self._claim.owner.id)
            while not self._take():
                pass
            undo.pop_all()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Release it; if the store fails meanwhile, the lease expires by itself."""
        self._ended.set()
        self._thread.join()
        HOLDING.discard(self._claim.owner.id)
        with suppress(StorageError):
            self._advance(self._claim.model_copy(update={"released": True}))

    def holder(self) -> Owner | None:
        """The owner as far as is known without waiting: on another host it may be gone. None where the lock is free."""
        claim = self._read(self._latest())
        if claim is None or claim.released or claim.owner.alive is False:
            return None
        return claim.owner

    @property
    def lease_seconds(self) -> float:
        """How long after its last renewal the owner keeps the lock."""
        return self._lease

    def guarded(self) -> GuardedStorage:
        """The storage for the owner, which makes sure of the lock right before each change.

        Its changes raise as `confirm`.
        """
        return GuardedStorage(self._storage.url, self.confirm)

    def confirm(self) -> None:
        """Make sure that this process still has the lock; costs a renewal where the last one may have expired.

        It may have expired in a process, or on a host, that was suspended.

        Raises:
            LockHeld: as `check`.
        """
        if self._renewed is None or self._renewed.seconds > SURE * self._lease:
            self.check()

    def check(self) -> None:
        """Renew the lock now.

        Raises:
            LockHeld: another process took it over, because this one did not renew it for as long as its lease.
        """
        try:
            self._advance(self._claim)
        except AlreadyExists as error:
            successor = self._read(self._latest())
            owner = successor.owner if successor else "unknown"
            raise LockHeld(
                f"{self._storage.url}: this driver did not renew its lock for {self._lease:g} s, and another took it"
                f" over ({owner}); what is done is kept, and that driver continues from it"
            ) from error

    def _take(self) -> bool:
        """Try once; False where the claim that counts has changed meanwhile."""
        latest = self._latest()
        found = self._read(latest)
        if found is not None and not found.released:
            alive = found.owner.alive
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
        """Wait until a claim is stale; raises LockHeld where it is renewed meanwhile."""
        lease = found.lease_seconds if found else self._lease
        log.warning(
            "%s is locked by %s; waiting up to %g s for its renewal",
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
            f"{self._storage.url}: another driver is at work in this root ({claim.owner}); wait until it has ended, or"
            " end it. Its lock need not be removed: it ends with that process on this host, and on another host"
            f" {claim.lease_seconds:g} s after its last renewal"
        )

    def _keep(self) -> None:
        """Renew until the lock is released or lost. A renewal that the store fails to write is repeated next time."""
        while not self._ended.wait(self._lease / RENEWALS):
            try:
                self._advance(self._claim)
            except AlreadyExists:
                return  # `check` reports it
            except StorageError as error:
                log.warning("the lock could not be renewed: %s", error)

    def _advance(self, claim: Claim) -> None:
        """Make the next claim, and remove those that are no longer needed.

        Raises:
            AlreadyExists: another process has made a later one.
        """
        with self._renewing:
            renewed = Age()
            try:
                numbers = self._claim_next(claim)
            except AlreadyExists:
                self._renewed = None
                raise
            self._renewed = renewed
            for number in numbers:
                if number < self._number - 1:  # a listing made while claims come and go may miss one of two
                    with suppress(StorageError):
                        self._storage.remove(self._file(number))

    def _claim_next(self, claim: Claim) -> list[int]:
        """Make the next claim; returns the numbers of all that are there. Raises as `_advance`."""
        self._storage.create(self._file(self._number + 1), encode(claim))
        self._number += 1
        numbers = self._numbers()
        # A driver that took over may have removed the number that this one then created.
        if max(numbers, default=-1) > self._number:
            raise AlreadyExists(f"{self._storage.locate(self._file(max(numbers)))}: a later claim")
        return numbers

    def _latest(self) -> int:
        """The highest number; -1 where there is no claim."""
        return max(self._numbers(), default=-1)

    def _numbers(self) -> list[int]:
        names = (name.removesuffix(".json") for name in self._storage.list(self._folder))
        return [int(name) for name in names if name.isdecimal()]

    def _read(self, number: int) -> Claim | None:
        """A claim; None where there is none, or none that can be read."""
        try:
            return parse(self._storage.read(self._file(number)), Claim, self._storage.locate(self._file(number)))
        except (Missing, Corrupt):
            return None

    def _file(self, number: int) -> str:
        return f"{self._folder}/{max(number, 0):012d}.json"
