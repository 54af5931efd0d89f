"""A cluster that an administrator started with `ray start --head`: submitted jobs, and drivers that do not fit it."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import ray
from ray._common.usage.usage_constants import CLUSTER_METADATA_KEY
from ray._private.ray_constants import KV_NAMESPACE_CLUSTER
from ray._raylet import GcsClient

from tests.audits import link_inputs
from tests.conftest import Raw
from tests.services import free_port, wait_for

SCRIPTS = Path(sys.executable).parent


PATIENCE = 120


@dataclass(frozen=True)
class Head:
    """Where a cluster listens, and the environment that it and its drivers share."""

    port: int
    dashboard_port: int
    environment: dict[str, str]

    @property
    def address(self) -> str:
        """What a driver joins."""
        return f"127.0.0.1:{self.port}"

    def call(self, *command: str, folder: Path) -> "subprocess.CompletedProcess[str]":
        """One of the environment's scripts, run as a user runs it."""
        return subprocess.run(
            [SCRIPTS / command[0], *command[1:]],
            check=False,
            cwd=folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )

    def submit(self, *entrypoint: str, folder: Path) -> "subprocess.CompletedProcess[str]":
        """A job, followed to its end."""
        return self.call(
            "ray",
            "job",
            "submit",
            "--address",
            f"http://127.0.0.1:{self.dashboard_port}",
            "--",
            *entrypoint,
            folder=folder,
        )


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    """A head node with two processors and a dashboard."""
    log = tmp_path_factory.mktemp("head") / "log"
    own = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled", "PATH": f"{SCRIPTS}:{os.environ['PATH']}"}
    found = Head(
        free_port(),
        free_port(),
        {name: value for name, value in os.environ.items() if not name.startswith("RAY_")} | own,
    )
    ports = {
        "port": found.port,
        "dashboard-port": found.dashboard_port,
        "dashboard-agent-listen-port": free_port(),
        "ray-client-server-port": free_port(),
    }
    options = {"dashboard-host": "127.0.0.1", "num-cpus": 2, **ports}
    command = [
        str(SCRIPTS / "ray"),
        "start",
        "--head",
        "--block",
        "--include-dashboard=true",
        *(f"--{name}={value}" for name, value in options.items()),
    ]
    with (
        log.open("wb") as output,
        subprocess.Popen(command, env=found.environment, stdout=output, stderr=output) as server,
    ):
        try:
            for port in ports.values():
                wait_for(port, server, log)
            yield found
        finally:
            server.terminate()


@pytest.fixture
def config(raw: Raw, digits: Path, tmp_path: Path) -> Path:
    """The demo's config as a file."""
    path = tmp_path / "audit.yaml"
    path.write_text(json.dumps(raw))
    link_inputs(digits, tmp_path)
    return path


def test_an_audit_is_submitted_as_a_job_to_a_cluster(head: Head, config: Path, tmp_path: Path) -> None:
    job = head.submit("mad", "run", str(config), "--executor", "ray", folder=tmp_path)
    assert job.returncode == 0, job.stdout + job.stderr
    assert "succeeded" in job.stdout
    (table,) = tmp_path.glob("root/digits/scores/run=*/*.parquet")
    assert set(pq.read_table(table).column("status").to_pylist()) == {"ok"}


@pytest.mark.faults
def test_a_job_that_is_refused_fails_and_its_log_says_why(head: Head, tmp_path: Path) -> None:
    job = head.submit("mad", "run", f"{tmp_path}/nowhere.yaml", "--executor", "ray", folder=tmp_path)
    assert job.returncode != 0
    assert f"mad: {tmp_path}/nowhere.yaml" in job.stdout + job.stderr


VERSIONS = [("ray_version", "2.1.0"), pytest.param(("python_version", "3.9.1"), marks=pytest.mark.faults)]


@pytest.fixture(params=VERSIONS, ids=str)
def other_version(request: pytest.FixtureRequest, head: Head) -> Iterator[str]:
    """The head says of itself that it was started with another version than this one; returns that version."""
    store, (key, version) = GcsClient(address=head.address), request.param
    true = store.internal_kv_get(CLUSTER_METADATA_KEY, KV_NAMESPACE_CLUSTER)
    said = json.dumps(json.loads(true) | {key: version}).encode()
    store.internal_kv_put(CLUSTER_METADATA_KEY, said, True, KV_NAMESPACE_CLUSTER)
    yield version
    store.internal_kv_put(CLUSTER_METADATA_KEY, true, True, KV_NAMESPACE_CLUSTER)


def test_a_driver_of_other_versions_than_the_cluster_is_refused_with_both_named(
    head: Head, config: Path, other_version: str, tmp_path: Path
) -> None:
    driver = head.call("mad", "run", str(config), "--executor", "ray", "--address", head.address, folder=tmp_path)
    assert driver.returncode == 2
    assert driver.stderr.count("mad: ") == 1 and "Traceback" not in driver.stderr
    for version in (other_version, ray.__version__, "{}.{}.{}".format(*sys.version_info[:3])):
        assert version in driver.stderr.splitlines()[-1]
    assert not (tmp_path / "root").exists()
