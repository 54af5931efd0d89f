"""Failures of a Ray cluster of three hosts during an audit: processes, nodes and hosts that die, cables pulled.

The hosts are namespaces of this machine (see `hosts`), Ray's own processes on them are real, and so is the token that
they ask for. Each fault happens when some rows are done and others are not; what is published must be equal to the byte
to what an audit publishes that nothing disturbed. `make test-cluster` runs these; they need root.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from infra.storage.storage import Storage
from pipeline.config.audit_config import AuditConfig
from pipeline.operations.verify import Findings, verify
from pipeline.planning.from_models import plan_audit
from pipeline.results.audit import open_audit
from pipeline.root.logs import stage_logs
from pipeline.run import run_audit
from tests.audits import link_inputs, only_table
from tests.conftest import Raw
from tests.end_to_end.hosts import Host, RayHosts, network

pytestmark = pytest.mark.cluster


PATIENCE = 150


SLOW = '''
"""The demo's classifier, which takes its time; on a host that has a note it says so, and waits until that is gone."""

import os
import pathlib
import time

from pipeline.demo.network import digit_cnn


def build(notes):
    note = pathlib.Path(notes, os.environ.get("HOST", "none"))

    def wait(*_):
        time.sleep(0.1)
        while note.exists():
            note.with_suffix(".read").touch()
            time.sleep(0.1)

    model = digit_cnn()
    model.register_forward_hook(wait)
    return model
'''


@dataclass
class Site:
    """The cluster, and the folder in which audits of these tests keep all they have."""

    cluster: RayHosts
    folder: Path
    drivers: "list[subprocess.Popen[str]]" = field(default_factory=list)

    def config(self, root: str) -> Path:
        """A config with this root, of the slow classifier."""
        raw: Raw = {
            "root": str(self.folder / root),
            "task": "classification",
            "models": [
                {
                    "name": "digits",
                    "architecture": "slow.py:build",
                    "kwargs": {"notes": str(self.folder)},
                    "weights": "digits.safetensors",
                }
            ],
            "data": {"trusted": "trusted.parquet", "audited": "audited.parquet", "preprocess": {"size": 8}},
            "run": {"rows_per_task": 32, "batch_size": 32, "memory_per_worker": "1GiB"},
        }
        path = self.folder / f"{root}.yaml"
        path.write_text(json.dumps(raw))
        return path

    def drive(self, host: Host, root: str, **environment: str) -> "subprocess.Popen[str]":
        """A driver, begun on a host."""
        command = [
            sys.executable,
            "-m",
            "jobs.main",
            "run",
            str(self.config(root)),
            "--executor",
            "ray",
            "--address",
            self.cluster.address,
        ]
        self.drivers.append(host.begin([*command, "--output", "json"], environment))
        return self.drivers[-1]

    def drive_until_rows(self, host: Host, root: str, **environment: str) -> "subprocess.Popen[str]":
        """A driver of which some tasks of rows are done, and others are not."""
        driver, storage, deadline = (
            self.drive(host, root, **environment),
            Storage(str(self.folder / root)),
            time.monotonic() + PATIENCE,
        )
        while sum(len(log.receipts()) for log in stage_logs(storage, "digits", "gradients")) < 3:
            assert driver.poll() is None, driver.communicate()
            assert time.monotonic() < deadline, "no row was computed"
            time.sleep(0.05)
        return driver

    def findings(self, root: str) -> Findings:
        """What `mad verify` finds."""
        return verify(Storage(str(self.folder / root)))

    def table(self, root: str) -> bytes:
        """The bytes of the only published table, from a root in which nothing is wrong."""
        storage = Storage(str(self.folder / root))
        assert self.findings(root).problems == []
        return only_table(storage)


def ended(driver: "subprocess.Popen[str]", code: int = 0) -> tuple[str, str]:
    """What a driver printed that ended with this code."""
    out, err = driver.communicate(timeout=PATIENCE)
    assert driver.returncode == code, err
    return out, err


@pytest.fixture(scope="module")
def site(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Three hosts, and in the root `undisturbed` an audit that nothing disturbed."""
    folder = tmp_path_factory.mktemp("cluster")
    (folder / "slow.py").write_text(SLOW)
    link_inputs(digits, folder)
    with tempfile.TemporaryDirectory(prefix="mad", dir="/tmp") as short, network(Path(short)) as cluster:
        cluster.repair()
        found = Site(cluster, folder)
        ended(found.drive(cluster.head, "undisturbed"))
        yield found


@pytest.fixture
def place(site: Site) -> Iterator[Site]:
    """The same, with a whole cluster; afterwards hosts are freed, and drivers that a failed test left are ended."""
    site.cluster.repair()
    yield site
    for host in site.cluster.hosts:
        (site.folder / host.name).unlink(missing_ok=True)
    while site.drivers:
        driver = site.drivers.pop()
        if driver.poll() is None:
            for host in site.cluster.hosts:
                host.crash()
            driver.communicate()


def test_an_audit_on_two_hosts_is_equal_to_the_serial_one_but_for_rounding(place: Site) -> None:
    serial = run_audit(plan_audit(AuditConfig.load(place.config("serial"))))
    tables = [audit.scores("digits").read_all() for audit in (serial, open_audit(str(place.folder / "undisturbed")))]
    assert tables[0].column("sample_id") == tables[1].column("sample_id")
    for column in ("score", "confidence", "gradient_norm"):
        np.testing.assert_allclose(*(table.column(column).to_numpy() for table in tables), rtol=1e-5, atol=1e-5)


def kill_worker(cluster: RayHosts) -> None:
    cluster.first.kill("ray::_Actor")


def kill_raylet(cluster: RayHosts) -> None:
    cluster.first.kill("raylet/raylet")


def kill_host(cluster: RayHosts) -> None:
    cluster.first.crash()


def cut_off(cluster: RayHosts) -> None:
    cluster.first.cut()


def cut_off_for_a_moment(cluster: RayHosts) -> None:
    cluster.first.cut()
    time.sleep(1.5)
    cluster.first.mend()


def cut_off_until_given_up(cluster: RayHosts) -> None:
    """And back: its node finds itself declared dead, and ends."""
    cluster.first.cut()
    time.sleep(10)
    cluster.first.mend()


LONG = [kill_worker, kill_raylet, cut_off, cut_off_for_a_moment, cut_off_until_given_up]
FAULTS = [kill_host, *(pytest.param(fault, marks=pytest.mark.faults) for fault in LONG)]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_while_a_host_is_left_a_fault_costs_time_and_nothing_else(
    place: Site, fault: Callable[[RayHosts], None]
) -> None:
    root = fault.__name__
    driver = place.drive_until_rows(place.cluster.head, root)
    fault(place.cluster)
    ended(driver)
    assert place.table(root) == place.table("undisturbed")


def test_what_a_worker_thought_dead_finishes_late_is_ignored_and_counted(place: Site) -> None:
    """Its host is cut off during a task, and resumes it only when the audit has ended. It still reaches the disk."""
    zombie = place.cluster.second
    driver = place.drive_until_rows(place.cluster.head, "zombie")
    note = place.folder / zombie.name
    note.touch()
    while not note.with_suffix(".read").exists():
        assert driver.poll() is None, "the audit ended without a task on this host"
        time.sleep(0.05)
    zombie.cut()
    ended(driver)
    before = place.findings("zombie").unclaimed_attempts
    note.unlink()
    deadline = time.monotonic() + 40
    while place.findings("zombie").unclaimed_attempts == before:
        assert time.monotonic() < deadline, "the worker that was cut off has left nothing"
        time.sleep(0.2)
    assert place.table("zombie") == place.table("undisturbed")


def test_when_no_host_is_left_it_waits_for_one_says_so_gives_up_and_resumes(place: Site) -> None:
    cluster = place.cluster
    driver = place.drive_until_rows(cluster.head, "no-host", MAD_WORKER_WAIT_SECONDS="30")
    cluster.first.crash()
    cluster.second.crash()
    _, err = ended(driver, code=1)
    needs = "which needs 1 CPU and 1.00 GiB of memory"
    outlook = "the run continues when there is room, and stops after 30 s"
    assert f"the cluster has no room for one, {needs}; {outlook}" in err
    assert err.splitlines()[-1].startswith("mad: no worker has run for ")
    assert "what is done is kept, and the same command resumes" in err.splitlines()[-1] and "Traceback" not in err
    resume(place, "no-host")


def resume(place: Site, root: str) -> None:
    """A new cluster, and the same command: it reuses what was done."""
    place.cluster.repair()
    out, _ = ended(place.drive(place.cluster.head, root))
    assert json.loads(out)["models"]["digits"]["stages"]["gradients"]["tasks_reused"] >= 3
    assert place.table(root) == place.table("undisturbed")


def kill_head_processes(cluster: RayHosts) -> None:
    cluster.head.kill("gcs_server")
    cluster.head.kill("raylet/raylet")


def kill_head_host(cluster: RayHosts) -> None:
    cluster.head.crash()


def cut_off_driver(cluster: RayHosts) -> None:
    cluster.first.cut()


SILENT = "mad: the head of the Ray cluster at 10.77.0.1:6379 has not answered for "


HEADS = [
    pytest.param("head", kill_head_processes, "mad: the Ray node of this host at 10.77.0.1:", id="driver on its host"),
    pytest.param("first", kill_head_host, SILENT, id="driver on another", marks=pytest.mark.faults),
    pytest.param("first", cut_off_driver, SILENT, id="driver cut off", marks=pytest.mark.faults),
]


@pytest.mark.parametrize(("driver_on", "fault", "said"), HEADS)
def test_a_head_that_is_lost_ends_the_run_in_a_paragraph_and_a_new_one_resumes_it(
    place: Site, driver_on: str, fault: Callable[[RayHosts], None], said: str
) -> None:
    """The workers' current tasks are held back, so that the run does not end first."""
    root = f"{fault.__name__}-{driver_on}"
    host: Host = getattr(place.cluster, driver_on)
    driver = place.drive_until_rows(host, root)
    for worker in (place.cluster.first, place.cluster.second):
        (place.folder / worker.name).touch()
    fault(place.cluster)
    began = time.monotonic()
    _, err = ended(driver, code=1)
    assert time.monotonic() - began < 120, "it hangs"
    for worker in (place.cluster.first, place.cluster.second):
        (place.folder / worker.name).unlink()
    assert err.splitlines()[-1].startswith(said), err
    assert "what is done is kept, and the same command resumes" in err.splitlines()[-1] and "Traceback" not in err
    resume(place, root)


ANOTHER = {"RAY_AUTH_TOKEN": "a-token-that-is-not-theirs-but-as-long-as-one"}
TOKENS = [
    pytest.param({"RAY_AUTH_MODE": "disabled", "RAY_AUTH_TOKEN": ""}, id="none", marks=pytest.mark.faults),
    pytest.param(ANOTHER, id="another"),
]


@pytest.mark.parametrize("environment", TOKENS)
def test_a_driver_without_the_token_of_the_cluster_is_refused(place: Site, environment: dict[str, str]) -> None:
    _, err = ended(place.drive(place.cluster.head, "no-token", **environment), code=2)
    (said,) = [line for line in err.splitlines() if line.startswith("mad: ")]
    assert "cannot be joined" in said and "RAY_AUTH_MODE and RAY_AUTH_TOKEN must be set here as on its nodes" in said
    assert "Traceback" not in err and not (place.folder / "no-token").exists()
