"""What of a Ray cluster is seen without Ray: whether its head answers, and how long a driver has waited for a worker."""

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
    """How long a driver waits for a worker to run before it gives up: MAD_WORKER_WAIT_SECONDS, or else 600 seconds.

    Raises:
        ClusterError: the variable is no positive number.
    """
    said = os.environ.get(WAIT_VARIABLE, "")
    seconds = WORKER_SECONDS if not said else 0.0
    with suppress(ValueError):
        seconds = float(said)
    if not 0 < seconds < float("inf"):
        raise ClusterError(
            f"{WAIT_VARIABLE} is {said!r}; expected a positive number of seconds, such as {WORKER_SECONDS:g}, which is the default"
        )
    return seconds


class Watch:
    """Ends what would wait for ever: where no worker runs for long, and where the head of the cluster, or this host's own node, is gone.

    Ray would end this process without a word, at once or a minute later. `began`: whether a task has; `gone`: whether the head or the own
    node is, so that whatever is asked of Ray, its shutdown included, may wait for minutes.
    """

    def __init__(self, patience: float, head_seconds: float = HEAD_SECONDS):
        """`patience`: seconds without a running worker; `head_seconds`: seconds without an answer of the head."""
        self._patience, self._head_seconds = patience, head_seconds
        self._head = self._own = ""
        self._answered = self._probed = self._worked = self._warned = 0.0
        self.began = self.gone = False

    def join(self, head: str, own: str) -> None:
        """Watches these addresses, HOST:PORT, of the cluster's head and of this host's own node."""
        self._head, self._own = head, own
        self._answered = time.monotonic()

    def begin(self) -> None:
        """Returns when the head and the own node answer, and counts from now how long no worker runs.

        Raises:
            ClusterError: one of them is gone. Where tasks had begun, ClusterLost.
        """
        while not self._probe():
            time.sleep(1)
        self._worked = self._warned = time.monotonic()

    def look(self, working: bool, resources: Resources) -> None:
        """To be called every few seconds.

        Args:
            working: whether a worker has a task now.
            resources: what a worker needs.

        Raises:
            ClusterError: it is time to give up. Where tasks had begun, ClusterLost.
        """
        self.began |= working
        if time.monotonic() - self._probed >= PROBE_SECONDS:
            self._probe()
        now = time.monotonic()
        if working:
            self._worked = self._warned = now
        elif now - self._worked >= self._patience:
            raise self.error(
                f"no worker has run for {now - self._worked:.0f} s: no node of the cluster has room for one, which needs {_needs(resources)}; {RESUMES}"
                f" once there is room ({WAIT_VARIABLE} says how long to wait, {WORKER_SECONDS:g} s unless set)"
            )
        elif now - self._warned >= min(WARNING_SECONDS, self._patience / 2):
            self._warned = now
            log.warning(
                "no worker has run for %.0f s: the cluster has no room for one, which needs %s; it goes on when there is, and gives up after %g s",
                now - self._worked,
                _needs(resources),
                self._patience,
            )

    def error(self, text: str) -> ClusterError:
        """The error that says this: where tasks had begun, the cluster was lost."""
        return ClusterLost(text) if self.began else ClusterError(text)

    def _probe(self) -> bool:
        """Whether the head answers now; raises when the own node is gone, or the head has been silent for long."""
        own, head = _failure(self._own), _failure(self._head)
        self._probed = time.monotonic()
        if not head:
            self._answered = self._probed
        silent = self._probed - self._answered
        self.gone = bool(own) or silent >= self._head_seconds
        if own:
            raise self.error(
                f"the Ray node of this host at {self._own} is gone ({own}), and with it the way to the cluster; {RESUMES} where a node runs again"
            )
        if self.gone:
            raise self.error(
                f"the head of the Ray cluster at {self._head} has not answered for {silent:.0f} s ({head}), and with it the cluster is lost;"
                f" {RESUMES} on a cluster that runs"
            )
        return not head


def _failure(address: str) -> str:
    """Why nobody answers at HOST:PORT; "" where somebody does."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=PROBE_SECONDS).close()
    except OSError as error:
        return describe(error)
    return ""


def await_answer(address: str, seconds: float) -> None:
    """Waits for a cluster's port; Ray itself would wait for minutes, and say so in its own log.

    Raises:
        ClusterError: the address is none, or nobody listens there.
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
                    f"no Ray cluster answers at {address} (waited {seconds:g} s: {describe(error)}); is `ray start --head` running there?"
                ) from error
            time.sleep(0.5)
        else:
            return


def check_resources(resources: Resources, gpus: float, memory: float) -> None:
    """Refuses what a cluster could never give, for which Ray would wait.

    Args:
        resources: what is asked for.
        gpus: how many the cluster has.
        memory: bytes that its largest node offers.

    Raises:
        ClusterError: that is too little.
    """
    wanted = resources.workers * resources.gpus_per_worker
    if wanted > gpus:
        raise ClusterError(
            f"{resources.workers} workers with {resources.gpus_per_worker:g} GPUs each need {wanted:g} GPUs, the cluster has {gpus:g}; "
            "lower run.workers or run.gpus_per_worker"
        )
    if resources.memory_per_worker_bytes > memory:
        raise ClusterError(
            f"a worker is granted {resources.memory_per_worker_bytes / 2**30:.2f} GiB, the largest node of the cluster offers {memory / 2**30:.2f} GiB; "
            "lower run.memory_per_worker"
        )


def _needs(resources: Resources) -> str:
    gpus = f", {resources.gpus_per_worker:g} GPUs" if resources.gpus_per_worker else ""
    return f"1 CPU{gpus} and {resources.memory_per_worker_bytes / 2**30:.2f} GiB of memory"
