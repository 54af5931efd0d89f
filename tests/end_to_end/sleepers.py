"""Drivers that fall asleep in the middle of a change and wake up when another has taken over.

A process stops itself with SIGSTOP at an operation by which storage changes: Python's audit hooks announce each one
just before it happens, when the driver has made sure of its lock already. To the others it is on another host, so that
they know of its end by its lease alone, which is short.
"""

import os
import signal
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import current_thread

from infra import locks
from infra.errors import LockHeld
from infra.storage.storage import Storage
from pipeline.config.audit_config import AuditConfig
from pipeline.operations.gc import collect
from pipeline.operations.repair import repair
from pipeline.planning.from_models import plan_audit
from pipeline.run import run_audit
from tests.processes import FORKED, ended

LOST, LEASE = 3, 1.0


@dataclass(frozen=True)
class Sleep:
    """Where to fall asleep: just before a system call, by the name of its audit event, on a path with this text."""

    event: str
    text: str


@contextmanager
def asleep(action: "Run | Collect | Repair", sleep: Sleep) -> Iterator[None]:
    """A driver is asleep during the block, wakes after it, and learns that it lost the lock."""
    process = FORKED.Process(target=_drive, args=(action, sleep))
    process.start()
    assert process.pid is not None
    while _state(process.pid) != "T":
        assert process.is_alive(), f"it ended with {ended(process)}, and did not come to {sleep}"
        time.sleep(0.02)
    try:
        yield
    finally:
        os.kill(process.pid, signal.SIGCONT)
    assert ended(process) == LOST


@dataclass(frozen=True)
class Run:
    """`mad run`."""

    config: AuditConfig

    def __call__(self) -> None:
        """To the end."""
        run_audit(plan_audit(self.config))


@dataclass(frozen=True)
class Collect:
    """`mad gc`."""

    root: str
    keep: float
    now: float

    def __call__(self) -> None:
        """To the end."""
        collect(Storage(self.root), self.keep, now=self.now)


@dataclass(frozen=True)
class Repair:
    """The first half of `mad run --repair`."""

    root: str

    def __call__(self) -> None:
        """To the end."""
        repair(Storage(self.root), ["digits"])


def _drive(action: Run | Collect | Repair, sleep: Sleep) -> None:
    locks.LEASE_SECONDS = LEASE
    socket.gethostname = lambda: "far-away"
    slept = False

    def watch(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal slept
        here = event == sleep.event and any(sleep.text in str(argument) for argument in arguments)
        if here and not slept and current_thread().name != "lock":
            slept = True
            os.kill(os.getpid(), signal.SIGSTOP)

    sys.addaudithook(watch)
    try:
        action()
    except LockHeld as error:
        sys.exit(LOST if "another took it over" in str(error) else 1)


def _state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
