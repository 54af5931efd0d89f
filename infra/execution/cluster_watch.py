"""Watches a Ray cluster without Ray: whether its head answers, and how long the driver has waited for a worker."""

import logging
import os
import socket
import time
from contextlib import suppress

from infra.errors import ClusterError, ClusterLost
from infra.execution.contract import Resources, describe

WAIT_VARIABLE = "MAD_WORKER_WAIT_SECONDS"
WORKER_SECONDS = 600.0
HEAD_SECONDS = 30.0
WARNING_SECONDS = 60.0
PROBE_SECONDS = 5.0
RESUMES = "what is done is kept, and the same command resumes"

log = logging.getLogger(__name__)


def worker_seconds() -> float:
    """How long a driver waits for a running worker before it stops: MAD_WORKER_WAIT_SECONDS, or else 600 seconds.

    Raises:
        ClusterError: the variable is not a positive number.
    """
    text = os.environ.get(WAIT_VARIABLE, "")
    seconds = WORKER_SECONDS if not text else 0.0
    with suppress(ValueError):
        seconds = float(text)
    if not 0 < seconds < float("inf"):
        raise ClusterError(
            f"{WAIT_VARIABLE} is {text!r}; expected a positive number of seconds, such as {WORKER_SECONDS:g},"
            " which is the default"
        )
    return seconds


class Watch:
    """Ends waits that would last forever: no worker runs for long, or the cluster's head or this host's node is gone.

    Ray would end this process without a message, at once or a minute later. `began`: a task has started. `gone`:
    whether the head or this host's node is gone, so that every call of Ray, its shutdown included, may take minutes.
    """

    def __init__(self, patience: float, head_seconds: float = HEAD_SECONDS):
        """`patience`: seconds without a running worker; `head_seconds`: seconds without an answer from the head."""
        self._patience, self._head_seconds = patience, head_seconds
        self._head = self._own = ""
        self._answered = self._probed = self._worked = self._warned = 0.0
        self.began = self.gone = False

    def join(self, head: str, own: str) -> None:
        """Watch these addresses, HOST:PORT, of the cluster's head and of this host's node."""
        self._head, self._own = head, own
        self._answered = time.monotonic()

    def begin(self) -> None:
        """Return when the head and this host's node answer, and count from now how long no worker runs.

        Raises:
            ClusterError: one of them is gone; ClusterLost where tasks had started.
        """
        while not self._probe():
            time.sleep(1)
        self._worked = self._warned = time.monotonic()

    def look(self, working: bool, resources: Resources) -> None:
        """Check the cluster; to be called every few seconds.

        Args:
            working: whether a worker has a task now.
            resources: what a worker needs.

        Raises:
            ClusterError: it is time to stop waiting; ClusterLost where tasks had started.
        """
        self.began |= working
        if time.monotonic() - self._probed >= PROBE_SECONDS:
            self._probe()
        now = time.monotonic()
        if working:
            self._worked = self._warned = now
            return
        waited, needs = now - self._worked, _needs(resources)
        if waited >= self._patience:
            raise self.error(
                f"no worker has run for {waited:.0f} s: no node of the cluster has room for one, which needs {needs};"
                f" {RESUMES} once there is room"
                f" ({WAIT_VARIABLE} sets how long to wait, by default {WORKER_SECONDS:g} s)"
            )
        if now - self._warned >= min(WARNING_SECONDS, self._patience / 2):
            self._warned = now
            log.warning(
                "no worker has run for %.0f s: the cluster has no room for one, which needs %s;"
                " the run continues when there is room, and stops after %g s",
                waited,
                needs,
                self._patience,
            )

    def error(self, text: str) -> ClusterError:
        """The error with this text: ClusterLost where tasks had started."""
        return ClusterLost(text) if self.began else ClusterError(text)

    def _probe(self) -> bool:
        """Whether the head answers now; raises when this host's node is gone or the head has been silent for long."""
        own, head = _failure(self._own), _failure(self._head)
        self._probed = time.monotonic()
        if not head:
            self._answered = self._probed
        silent = self._probed - self._answered
        self.gone = bool(own) or silent >= self._head_seconds
        if own:
            raise self.error(
                f"the Ray node of this host at {self._own} is gone ({own}), and with it the way to the cluster;"
                f" {RESUMES} where a node runs again"
            )
        if self.gone:
            raise self.error(
                f"the head of the Ray cluster at {self._head} has not answered for {silent:.0f} s ({head}),"
                f" and with it the cluster is lost; {RESUMES} on a cluster that runs"
            )
        return not head


def _failure(address: str) -> str:
    """Why HOST:PORT does not accept a connection; "" where it does."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=PROBE_SECONDS).close()
    except OSError as error:
        return describe(error)
    return ""


def await_answer(address: str, seconds: float) -> None:
    """Wait for a cluster's port; Ray itself would wait for minutes, and report that only in its own log.

    Raises:
        ClusterError: the address is malformed, or nothing listens there.
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        raise ClusterError(f"{address!r} is no address of a Ray cluster; expected HOST:PORT, such as 10.0.0.1:6379")
    deadline = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection((host, int(port)), timeout=5).close()
        except OSError as error:
            if time.monotonic() > deadline:
                raise ClusterError(
                    f"no Ray cluster answers at {address} (waited {seconds:g} s: {describe(error)});"
                    " is `ray start --head` running there?"
                ) from error
            time.sleep(0.5)
        else:
            return


def check_resources(resources: Resources, gpus: float, memory: float) -> None:
    """Refuse what a cluster could never provide, for which Ray would wait.

    Args:
        resources: what the workers need.
        gpus: how many the cluster has.
        memory: bytes that its largest node offers.

    Raises:
        ClusterError: that is too little.
    """
    wanted = resources.workers * resources.gpus_per_worker
    if wanted > gpus:
        raise ClusterError(
            f"{resources.workers} workers with {resources.gpus_per_worker:g} GPUs each need {wanted:g} GPUs,"
            f" the cluster has {gpus:g}; lower run.workers or run.gpus_per_worker"
        )
    if resources.memory_per_worker_bytes > memory:
        raise ClusterError(
            f"a worker needs {resources.memory_per_worker_bytes / 2**30:.2f} GiB, the largest node of the cluster"
            f" offers {memory / 2**30:.2f} GiB; lower run.memory_per_worker"
        )


def _needs(resources: Resources) -> str:
    gpus = f", {resources.gpus_per_worker:g} GPUs" if resources.gpus_per_worker else ""
    return f"1 CPU{gpus} and {resources.memory_per_worker_bytes / 2**30:.2f} GiB of memory"
