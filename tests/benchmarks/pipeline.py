"""The gradients stage against the bare loop it contains: `make bench-pipeline`.

Both decode the same JPEG pictures with the same decoder and compute the same rows of the same residual network, the
bare loop in as many processes as the stage has workers, with as many threads: serial has the machine's, a worker of
Ray's has one. The stage also reads ahead, encodes rows, writes them as Zarr and Arrow, and commits; on Ray it starts
its workers too, which the bare loop's processes have done before their time counts. The figure is the stage's wall time
over that of the bare loop just before it: 1 is free. On S3 where `AWS_ENDPOINT_URL` and a bucket `audits` are there
(`make test-s3` says how one is started). The last line is one JSON object.

    python -m tests.benchmarks.pipeline [IMAGES]
"""

import io
import json
import multiprocessing
import os
import re
import subprocess
import sys
import tempfile
import time
import uuid
from dataclasses import dataclass
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Barrier
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image
from pydantic import JsonValue
from safetensors.torch import save_file

from madcore import RowExtractor
from pipeline.config.audit_config import AuditConfig
from pipeline.models.load import load_model
from pipeline.planning.from_models import plan_audit
from pipeline.planning.plan import ModelPlan
from tests.benchmarks.network import SIDE, network

IMAGES, TRUSTED = 50_000, 400


SPAWN = multiprocessing.get_context("spawn")


def pictures(count: int, seed: int) -> pa.Table:
    """Smooth random pictures as JPEG, of about the bytes that photographs of this size have."""
    generator = np.random.default_rng(seed)
    encoded = []
    for _ in range(count):
        sink = io.BytesIO()
        small = Image.fromarray(generator.integers(0, 256, (6, 6, 3), dtype=np.uint8))
        small.resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(sink, "JPEG", quality=90)
        encoded.append({"bytes": sink.getvalue(), "path": None})
    return pa.table({"id": [f"{seed}-{number}" for number in range(count)], "image": encoded})


def prepare(folder: Path, images: int) -> None:
    """The inputs of all audits here."""
    torch.manual_seed(0)
    save_file(network().state_dict(), folder / "network.safetensors")
    pq.write_table(pictures(TRUSTED, 1), folder / "trusted.parquet")
    pq.write_table(pictures(images, 2), folder / "audited.parquet", row_group_size=4096)


def config(folder: Path, root: str, workers: int) -> dict[str, JsonValue]:
    """An audit of the inputs."""
    return {
        "root": root,
        "task": "classification",
        "models": [
            {"name": "network", "architecture": "tests.benchmarks.network:network", "weights": "network.safetensors"}
        ],
        "data": {"trusted": "trusted.parquet", "audited": "audited.parquet", "preprocess": {"size": SIDE}},
        "run": {"workers": workers},
    }


@dataclass(frozen=True)
class Share:
    """What one process of the bare loop does, and with how many threads."""

    audit: AuditConfig
    plan: ModelPlan
    rows: range
    threads: int


def bare(share: Share, ready: Barrier, seconds: "Queue[float]") -> None:
    """Reads, decodes and computes audited rows, a batch after the other, and keeps nothing; says how long it took.

    In a process that has computed nothing before, and in its main thread: where a loop of this kind is fastest.
    """
    torch.set_num_threads(share.threads)
    audit, plan = share.audit, share.plan
    extractor = RowExtractor(load_model(audit, plan.config).module, plan.layers, plan.projection)
    ready.wait()
    start = time.perf_counter()
    for batch in plan.inputs.read(plan.config, plan.audited[0], share.rows, audit.run.batch_size):
        for group in batch.groups:
            extractor(group.measured)
    seconds.put(time.perf_counter() - start)


def time_bare(folder: Path, images: int, parts: int, threads: int) -> float:
    """Seconds of the bare loop in so many processes, of so many threads each, which begin together: of the slowest."""
    audit = AuditConfig.parse(config(folder, "memory://bare", 1), str(folder))
    (plan,) = plan_audit(audit).models
    ready, seconds = SPAWN.Barrier(parts), SPAWN.Queue()
    rows = [range(images * part // parts, images * (part + 1) // parts) for part in range(parts)]
    processes = [SPAWN.Process(target=bare, args=(Share(audit, plan, own, threads), ready, seconds)) for own in rows]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        if process.exitcode:
            raise RuntimeError(f"the bare loop failed with exit code {process.exitcode}")
    return max(seconds.get() for _ in processes)


def time_stage(folder: Path, root: str, workers: int, executor: str) -> float:
    """Seconds of the stage, as `mad run --until gradients` in a process of its own says."""
    path = folder / f"{uuid.uuid4().hex}.yaml"
    path.write_text(json.dumps(config(folder, root, workers)))
    command = [sys.executable, "-m", "jobs.main", "run", str(path), "--until", "gradients", "--executor", executor]
    ended = subprocess.run(command, check=False, capture_output=True, text=True)
    found = re.search(r"^gradients: .* ([\d.]+) s$", ended.stderr, re.MULTILINE)
    if ended.returncode or found is None:
        raise RuntimeError(f"the run failed, or says nothing of its gradients stage: {ended.stderr}")
    return float(found.group(1))


def main() -> None:
    images = int(sys.argv[1]) if len(sys.argv) > 1 else IMAGES
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder, images)
        places = {"local": f"{folder}/roots"}
        if "AWS_ENDPOINT_URL" in os.environ:
            places["s3"] = f"s3://audits/bench-{uuid.uuid4().hex}"
        for place, home in places.items():
            for variant, executor, workers in (("serial", "serial", 1), ("ray1", "ray", 1), ("ray2", "ray", 2)):
                plain = time_bare(folder, images, workers, torch.get_num_threads() if executor == "serial" else 1)
                seconds = time_stage(folder, f"{home}/{variant}", workers, executor)
                figures[f"{variant}/{place}"] = round(seconds / plain, 3)
                print(
                    f"{variant} on {place}: {seconds:.1f} s for {images:,} images, "
                    f"the bare loop in {workers} process(es) {plain:.1f} s",
                    flush=True,
                )
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
