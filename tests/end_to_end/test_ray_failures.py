"""What goes wrong on the session's cluster in audits of this process: each ends with a reason, and no row is lost."""

import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from pydantic import JsonValue

from infra.errors import ClusterError
from pipeline.demo.prepare import with_patch
from pipeline.planning.from_models import plan_audit
from pipeline.results.audit import Audit
from pipeline.run import run_audit
from tests.conftest import ConfigMaker
from tests.jobs.pictures import png

POISON = '''
"""The demo's classifier, which one picture ends: its first pixel is white, and its lower half is black."""

import ctypes
import os
import pathlib
import resource
import signal

import torch

from pipeline.demo.network import digit_cnn


def killed():
    os.kill(os.getpid(), signal.SIGKILL)


def segfault():
    ctypes.string_at(0)


def memory():
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + (64 << 20),) * 2)
    torch.empty(1 << 30)


def build(end):
    def look(module, args):
        if bool(((args[0][:, :, 0, 0] > 1.99).all(dim=1) & (args[0][:, :, 4:] < 0).flatten(1).all(dim=1)).any()):
            globals()[end]()

    model = digit_cnn()
    model.register_forward_pre_hook(look)
    return model
'''


DRIVER_ONLY = '''
"""A classifier that needs a package which the nodes of the cluster lack."""

import sys

from pipeline.demo.network import digit_cnn

if "default_worker.py" in sys.argv[0]:
    import a_package_that_only_the_driver_has


def build():
    return digit_cnn()
'''


def architecture(folder: Path, code: str, weights: Path, **kwargs: JsonValue) -> JsonValue:
    """A model of this code."""
    (folder / "network.py").write_text(code)
    return [{"name": "digits", "architecture": f"{folder}/network.py:build", "kwargs": kwargs, "weights": str(weights)}]


def on_ray(make_config: ConfigMaker, **sections: JsonValue) -> Audit:
    return run_audit(plan_audit(make_config(**sections)), executor="ray")


POISONED = {
    "killed": r"^failed: given up after 3 workers were lost with it, the last with ActorDiedError",
    "segfault": r"^failed: given up after 3 workers were lost with it, the last with ActorDiedError",
    "memory": r"^failed: given up after 3 workers were lost with it, .* as memory ran out; "
    r"raise run\.memory_per_worker or lower run\.batch_size$",
}


LONG = pytest.mark.faults


@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize(
    ("end", "status"),
    [pytest.param(*case, id=case[0], marks=() if case[0] == "killed" else LONG) for case in POISONED.items()],
)
def test_a_sample_that_ends_every_worker_costs_its_task_and_no_other(
    make_config: ConfigMaker, digits: Path, tmp_path: Path, end: str, status: str
) -> None:
    """The executor's own tests end their workers in every way."""
    rows = pq.read_table(digits / "audited.parquet").slice(0, 96)
    images = rows.column("image").to_pylist()
    deadly = with_patch(np.zeros((1, 8, 8, 3), np.uint8))[0][::-1, ::-1]
    images[40]["bytes"] = png(Image.fromarray(np.ascontiguousarray(deadly)))
    pq.write_table(
        rows.set_column(
            rows.schema.get_field_index("image"), "image", pa.array(images, rows.schema.field("image").type)
        ),
        tmp_path / "audited.parquet",
    )
    models, data = (
        architecture(tmp_path, POISON, digits / "digits.safetensors", end=end),
        {"audited": str(tmp_path / "audited.parquet")},
    )
    audit = on_ray(make_config, models=models, data=data, run={"rows_per_task": 32})
    statuses = audit.scores("digits").read_all().column("status").to_pylist()
    assert len(statuses) == 96
    assert [number for number, said in enumerate(statuses) if said != "ok"] == list(range(32, 64))
    assert re.search(status, statuses[32]), statuses[32]
    assert audit.outcome is not None and len(audit.outcome.failed_tasks["digits"]) == 1


@pytest.mark.usefixtures("ray_cluster")
def test_a_worker_that_cannot_import_the_architecture_says_which_file(
    make_config: ConfigMaker, digits: Path, tmp_path: Path
) -> None:
    audit = on_ray(make_config, models=architecture(tmp_path, DRIVER_ONLY, digits / "digits.safetensors"))
    assert audit.outcome is not None
    reason = audit.outcome.failures["digits"]
    assert f"architecture {tmp_path}/network.py: importing it" in reason
    assert "No module named 'a_package_that_only_the_driver_has'" in reason


@pytest.mark.usefixtures("ray_cluster")
def test_more_gpus_than_the_cluster_has_are_refused_and_nothing_is_written(
    make_config: ConfigMaker, tmp_path: Path
) -> None:
    with pytest.raises(
        ClusterError,
        match=r"2 workers with 1 GPUs each need 2 GPUs, the cluster has 0; lower run\.workers or run\.gpus_per_worker",
    ):
        on_ray(make_config, run={"gpus_per_worker": 1})
    assert not (tmp_path / "root").exists()


def test_an_architecture_file_travels_to_the_workers(
    make_config: ConfigMaker, ray_cluster: None, digits: Path, tmp_path: Path
) -> None:
    """It is removed once the plan is made: no worker needs to see it."""
    models = architecture(
        tmp_path, "from pipeline.demo.network import digit_cnn as build\n", digits / "digits.safetensors"
    )
    plan = plan_audit(make_config(models=models))
    (tmp_path / "network.py").unlink()
    audit = run_audit(plan, executor="ray")
    assert audit.outcome is not None and audit.outcome.clean
