"""When a driver stops waiting for a cluster; the heads here are sockets that listen, and then close."""

import logging
import re
import socket
import time

import pytest

from infra.errors import ClusterError, ClusterLost
from infra.execution.cluster_watch import PROBE_SECONDS, Watch, worker_seconds
from infra.execution.contract import Resources

NEEDS = Resources(workers=2, gpus_per_worker=0.5, memory_per_worker_bytes=3 << 29)


def begin(watch: Watch, head: socket.socket, own: socket.socket | None = None) -> None:
    """Watch the head and this host's node, which is the head's by default."""
    watch.join(*("{}:{}".format(*node.getsockname()) for node in (head, own or head)))
    watch.begin()


def give_up(watch: Watch, seconds: float, working: bool = False) -> ClusterError:
    """The error with which it stops waiting, while workers run or none does."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            watch.look(working, NEEDS)
        except ClusterError as error:
            return error
        time.sleep(0.1)
    raise AssertionError(f"it still waits after {seconds:g} s")


@pytest.fixture
def head() -> socket.socket:
    """A head that answers."""
    return socket.create_server(("127.0.0.1", 0))


def test_without_a_worker_it_warns_and_then_stops(head: socket.socket, caplog: pytest.LogCaptureFixture) -> None:
    with head, caplog.at_level(logging.WARNING):
        watch = Watch(2)
        begin(watch, head)
        error = give_up(watch, 30)
    needs = "which needs 1 CPU, 0.5 GPUs and 1.50 GiB of memory"
    outlook = "the run continues when there is room, and stops after 2 s"
    assert f"the cluster has no room for one, {needs}; {outlook}" in caplog.text
    assert str(error) == (
        f"no worker has run for 2 s: no node of the cluster has room for one, {needs};"
        " what is done is kept, and the same command resumes once there is room"
        " (MAD_WORKER_WAIT_SECONDS sets how long to wait, by default 600 s)"
    )
    assert not isinstance(error, ClusterLost)


def test_after_tasks_have_begun_it_is_the_cluster_that_was_lost(head: socket.socket) -> None:
    watch = Watch(0.5)
    with head:
        begin(watch, head)
        watch.look(True, NEEDS)
        assert isinstance(give_up(watch, 30), ClusterLost)


def test_while_workers_run_it_waits_for_as_long_as_they_take(head: socket.socket) -> None:
    with head:
        watch = Watch(0.2)
        begin(watch, head)
        for _ in range(10):
            watch.look(True, NEEDS)
            time.sleep(0.1)


def test_a_head_that_no_longer_answers_ends_the_wait_whatever_runs(head: socket.socket) -> None:
    watch = Watch(600, head_seconds=1)
    with socket.create_server(("127.0.0.1", 0)) as own:
        begin(watch, head, own)
        watch.look(True, NEEDS)
        head.close()
        error = give_up(watch, 10 * PROBE_SECONDS, working=True)
    assert isinstance(error, ClusterLost) and watch.gone
    expected = (
        r"the head of the Ray cluster at 127\.0\.0\.1:\d+ has not answered for \d+ s \(.*refused\), .* resumes on"
    )
    assert re.search(expected, str(error))


def test_a_node_of_this_host_that_is_gone_ends_the_wait_at_once(head: socket.socket) -> None:
    watch, own = Watch(600, head_seconds=600), socket.create_server(("127.0.0.1", 0))
    with head:
        begin(watch, head, own)
        own.close()
        with pytest.raises(ClusterError, match=r"the Ray node of this host at 127\.0\.0\.1:\d+ is gone \(.*refused\)"):
            watch.begin()
    assert watch.gone


def test_how_long_to_wait_for_a_worker_is_ten_minutes_unless_the_environment_says_otherwise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("MAD_WORKER_WAIT_SECONDS", raising=False)
    assert worker_seconds() == 600
    monkeypatch.setenv("MAD_WORKER_WAIT_SECONDS", "2.5")
    assert worker_seconds() == 2.5


@pytest.mark.parametrize("text", ["soon", "0", "-3", "nan", "inf"])
def test_a_wait_that_is_not_a_positive_number_is_refused(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("MAD_WORKER_WAIT_SECONDS", text)
    with pytest.raises(
        ClusterError, match=f"MAD_WORKER_WAIT_SECONDS is '{text}'; expected a positive number of seconds, such as 600"
    ):
        worker_seconds()
