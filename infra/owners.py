"""The process that holds a lock, and whether it is alive as far as this host can know."""

import getpass
import os
import socket
import uuid
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from infra.events import utc_stamp
from infra.storage.files import digest

# Ids of the owners in this process that hold a lock. One whose release could not be written holds nothing any more.
HOLDING: set[str] = set()


class Owner(BaseModel):
    """A process that holds a lock.

    `machine` distinguishes hosts, their boots and their containers; `started` distinguishes processes with the same id.
    """

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
    def alive(self) -> bool | None:
        """Whether the process is alive; None where that cannot be known, because it runs on another host."""
        if self.machine != _machine():
            return None
        return self.id in HOLDING if self.pid == os.getpid() else _started(self.pid) == self.started

    def __str__(self) -> str:
        """For messages."""
        return f"process {self.pid} of {self.user} on {self.host}, since {self.since}"


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a user id without a name, as in containers
        return str(os.getuid())


def _machine() -> str:
    """A digest of the scope of process ids: the host, its boot and the namespace of its processes."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    namespace = Path("/proc/self/ns/pid")
    parts = [
        socket.gethostname(),
        boot.read_text(encoding="ascii") if boot.exists() else "",
        os.readlink(namespace) if namespace.exists() else "",
    ]
    return digest("\0".join(parts).encode())[:16]


def _started(pid: int) -> str:
    """When a process of this host started, in kernel ticks; "" where there is none or only its exit status is left.

    Without /proc it is "?" for every process that exists.
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
