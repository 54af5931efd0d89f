"""Hosts for tests: namespaces of network and processes on a switch of their own, with a Ray cluster and one disk.

It takes root, `ip` of iproute2, and `unshare` and `nsenter` of util-linux. Nothing is seen of it outside of the
namespaces, whose names are this process's own; `network` removes them whatever happens.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]


TOKEN = "a-token-of-the-tests-that-nobody-else-has"


PORT = 6379


SETTINGS = {  # Ray takes a node for lost after half a minute unless told; with these after about five seconds
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_failure_threshold": "3",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": TOKEN,
    "OMP_NUM_THREADS": "1",
    "PYTHONPATH": str(REPOSITORY),  # of workers too, whichever version is installed
}


def ip(*words: str) -> str:
    """What `ip` prints."""
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"ip {' '.join(words)}: {done.stderr}"
    return done.stdout


@dataclass
class Host:
    """One host: up while its first process runs, reached by the others while its link is."""

    name: str
    space: str
    switch: str
    address: str
    folder: Path
    init: "subprocess.Popen[bytes] | None" = None
    was_cut: bool = False

    def wire(self) -> None:
        """Puts a cable between the host and the switch."""
        ip("netns", "add", self.space)
        ip("-n", self.space, "link", "set", "lo", "up")
        ip("-n", self.space, "link", "add", "eth0", "type", "veth", "peer", "name", self.name, "netns", self.switch)
        ip("-n", self.switch, "link", "set", self.name, "master", "switch", "up")
        ip("-n", self.space, "address", "add", f"{self.address}/24", "dev", "eth0")
        ip("-n", self.space, "link", "set", "eth0", "up")
        ip(
            "-n", self.space, "route", "add", "default", "via", "10.77.0.254"
        )  # to nobody: Ray asks by which address the world is reached

    def boot(self) -> None:
        """Starts the host's first process, which adopts and buries all others, and which none outlives."""
        command = [
            "ip",
            "netns",
            "exec",
            self.space,
            "unshare",
            "--pid",
            "--fork",
            "--kill-child",
            "--mount-proc",
            "sh",
            "-c",
            "echo up; while sleep 1; do :; done",
        ]
        self.init = subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL)
        assert self.init.stdout is not None and self.init.stdout.readline() == b"up\n"

    def crash(self) -> None:
        """Kills every process of the host at once, and removes what Ray kept for them."""
        self.was_cut = False
        if self.init is not None:
            self.init.kill()
            self.init.communicate()
            self.init = None
        deadline = time.monotonic() + 30
        while ip("netns", "pids", self.space).split():
            assert time.monotonic() < deadline, f"processes of {self.name} outlive it"
            time.sleep(0.05)
        shutil.rmtree(self.folder, ignore_errors=True)

    def cut(self) -> None:
        """Pulls the cable."""
        self.was_cut = True
        ip("-n", self.switch, "link", "set", self.name, "down")

    def mend(self) -> None:
        """Plugs it in again."""
        ip("-n", self.switch, "link", "set", self.name, "up")

    def begin(self, command: Sequence[str], environment: Mapping[str, str] | None = None) -> "subprocess.Popen[str]":
        """A process on the host, in an environment over this one's."""
        (inner,) = (
            Path(f"/proc/{self.init.pid}/task/{self.init.pid}/children").read_text().split() if self.init else ("",)
        )
        words = ["nsenter", "--target", inner, "--net", "--pid", "--mount", *command]
        whole = {**os.environ, **SETTINGS, "HOST": self.name, **(environment or {})}
        return subprocess.Popen(
            words, cwd=REPOSITORY, env=whole, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def processes(self, word: str) -> list[int]:
        """Ids, as this process knows them, of the host's processes whose title or program has the word."""
        found = []
        for pid in ip("netns", "pids", self.space).split():
            try:
                title = Path(f"/proc/{pid}/cmdline").read_bytes().partition(b"\0")[0].decode()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if word in title:
                found.append(int(pid))
        return found

    def kill(self, word: str) -> None:
        """Kills those processes; there must be one."""
        pids = self.processes(word)
        assert pids, f"{self.name} has no process {word}"
        for pid in pids:
            os.kill(pid, signal.SIGKILL)


@dataclass
class RayHosts:
    """A Ray cluster: a head that runs no task, and two hosts that run one worker each."""

    head: Host
    first: Host
    second: Host

    @property
    def address(self) -> str:
        """What a driver joins."""
        return f"{self.head.address}:{PORT}"

    @property
    def hosts(self) -> tuple[Host, Host, Host]:
        """All of them, the head first."""
        return self.head, self.first, self.second

    def repair(self) -> None:
        """All three are there, linked, and nodes of one cluster that has no worker."""
        if not self.head.processes("gcs_server") or not self.head.processes("raylet/raylet"):
            for host in self.hosts:
                host.crash()
        for host in self.hosts:
            host.mend()
            if host.was_cut or not host.processes(
                "raylet/raylet"
            ):  # one that was cut off may be about to end, having been declared dead
                host.crash()
                host.boot()
                self._start(host)

    def _start(self, host: Host) -> None:
        place = (
            ["--head", "--port", str(PORT), "--num-cpus", "0", "--include-dashboard=false"]
            if host is self.head
            else ["--address", self.address, "--num-cpus", "1"]
        )
        common = [
            "--node-ip-address",
            host.address,
            "--object-store-memory",
            "100000000",
            "--temp-dir",
            str(host.folder),
            "--disable-usage-stats",
        ]
        ray = str(Path(sys.executable).with_name("ray"))
        process = host.begin([ray, "start", *place, *common])
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0, out + err


@contextmanager
def network(folder: Path) -> Iterator[RayHosts]:
    """Three hosts on a switch, not up yet. `folder`: short, because paths of sockets have at most 107 bytes."""
    mine = f"mad{os.getpid()}"
    switch = f"{mine}-switch"
    hosts = [
        Host(name, f"{mine}-{name}", switch, f"10.77.0.{number}", folder / name)
        for number, name in enumerate(("head", "first", "second"), 1)
    ]
    try:
        ip("netns", "add", switch)
        ip("-n", switch, "link", "add", "switch", "type", "bridge")
        ip("-n", switch, "link", "set", "switch", "up")
        for host in hosts:
            host.wire()
        yield RayHosts(*hosts)
    finally:
        there = ip("netns", "list")
        for host in hosts:
            if host.space in there:
                host.crash()
                ip("netns", "delete", host.space)
        if switch in there:
            ip("netns", "delete", switch)
