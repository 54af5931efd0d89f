"""Fixtures: the demo's inputs, made once a session, and audits of them."""

import gc
import os
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest
import torch
from pydantic import JsonValue
from xdist.scheduler import LoadFileScheduling

from pipeline.config.audit_config import AuditConfig, merge
from pipeline.config.sections import Raw
from pipeline.demo.prepare import prepare_demo
from tests.audits import Prepared, demo_config
from tests.services import WITHOUT, moto, on_moto, on_s3, real_s3

__all__ = ["moto", "on_moto", "on_s3", "real_s3"]
ConfigMaker = Callable[..., AuditConfig]

REPOSITORY = Path(__file__).parents[1]

NO_HOSTS = pytest.mark.skip(
    reason="may not make network namespaces; `make test-cluster` allows it (as root, with ip of iproute2)"
)

WITH_S3 = ("tests/infra", "tests/end_to_end", "tests/jobs")
ZOO = pytest.mark.skip(reason="a zoo of fifty models; `make test-nights` audits it")
BREADTH = pytest.mark.skip(reason="trains models of every kind; `make test-breadth` audits them")
REPEATED = pytest.mark.skip(reason="shown on the real S3 that MAD_S3_ENDPOINT names")
LONG = pytest.mark.skip(reason="takes long; `make test-faults` runs it")


gc.disable()  # what is imported stays: looking through it again and again takes a third of the collection's time


def pytest_collection_finish() -> None:
    """Collect garbage from now on, but for what was imported."""
    gc.freeze()
    gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests whose marker the environment does not ask for: a real S3, hosts of their own, tests that take long."""
    for marker, asked, skip in (
        ("s3", "MAD_S3_ENDPOINT", WITHOUT),
        ("cluster", "MAD_TEST_CLUSTER", NO_HOSTS),
        ("faults", "MAD_FAULTS", LONG),
        ("nights", "MAD_NIGHTS", ZOO),
        ("breadth", "MAD_BREADTH", BREADTH),
    ):
        for item in items:
            if not os.environ.get(asked) and item.get_closest_marker(marker):
                item.add_marker(skip)
    for item in items:
        if os.environ.get("MAD_S3_ENDPOINT") and item.get_closest_marker("moto"):
            item.add_marker(REPEATED)
        if item.get_closest_marker("s3") and not item.nodeid.startswith(WITH_S3):
            raise pytest.UsageError(f"{item.nodeid}: `make test-s3` looks for tests in {', '.join(WITH_S3)} only")


class RayTogether(LoadFileScheduling):
    """Gives each file of tests to one process, and all files that use the Ray cluster to the same one."""

    def _split_scope(self, nodeid: str) -> str:
        file: str = super()._split_scope(nodeid)
        return "ray" if uses_ray(file) else file


@cache
def uses_ray(file: str) -> bool:
    """Whether a file of tests names the fixture."""
    return "ray_cluster" in Path(REPOSITORY, file).read_text()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> RayTogether:
    """How tests are given to processes, instead of `--dist`."""
    return RayTogether(config, log)


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with trusted.parquet (500 digits), audited.parquet (490, some with a trigger) and digits.safetensors."""
    folder = tmp_path_factory.mktemp("digits")
    prepare_demo(folder, str(folder / "root"))
    return folder


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """One thread for small models: threads that wait for each other on a busy machine cost minutes."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """Makes a root by copying that of an audit which is run once a session."""
    return Prepared(tmp_path_factory.mktemp("prepared"))


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """One Ray cluster of two processors for all tests that need any: starting one takes seconds."""
    import ray  # noqa: PLC0415

    from infra.execution.contract import Resources  # noqa: PLC0415
    from infra.execution.on_ray import RayExecutor  # noqa: PLC0415

    RayExecutor("local", Resources(workers=2)).connect()
    yield
    ray.shutdown()


@pytest.fixture
def raw(digits: Path, tmp_path: Path) -> Raw:
    """The demo's config as a mapping, with a root of the test's own and small tasks."""
    return {**demo_config(tmp_path / "root"), "run": {"rows_per_task": 128, "batch_size": 64}}


@pytest.fixture
def make_config(raw: Raw, digits: Path) -> ConfigMaker:
    """A config from the demo's, with sections merged over it: `make_config(curvature={"kind": "identity"})`."""

    def make(**sections: JsonValue) -> AuditConfig:
        return AuditConfig.parse(merge(raw, sections), str(digits))

    return make
