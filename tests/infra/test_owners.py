"""Owners of locks: whether their process is alive, as far as this host can know."""

import os
import re
import socket
import subprocess
import sys

import pytest

from infra.owners import HOLDING, Owner


def test_an_owner_is_this_process() -> None:
    owner, other = Owner.here(), Owner.here()
    assert (owner.pid, owner.host) == (os.getpid(), socket.gethostname())
    assert (owner.machine, owner.started) == (other.machine, other.started)
    assert owner.id != other.id
    assert re.fullmatch(rf"process {os.getpid()} of \S+ on \S+, since \d{{8}}T\d{{9}}Z", str(owner))


def test_an_owner_in_this_process_is_alive_while_it_holds_a_lock() -> None:
    owner = Owner.here()
    assert owner.alive is False
    HOLDING.add(owner.id)
    try:
        assert owner.alive is True
    finally:
        HOLDING.discard(owner.id)


def test_of_another_machine_it_is_not_known() -> None:
    assert Owner.here().model_copy(update={"machine": "another"}).alive is None


@pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="start times are read from /proc")
def test_another_process_is_alive_until_it_ends_and_by_its_start_time_only() -> None:
    program = "from infra.owners import Owner; print(Owner.here().model_dump_json(), flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        owner = Owner.model_validate_json(process.stdout.readline())
        assert (owner.pid, owner.alive) == (process.pid, True)
        assert owner.model_copy(update={"started": "1"}).alive is False
        process.communicate(b"\n")
    assert owner.alive is False
