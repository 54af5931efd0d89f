"""Writes the root of a release, to be kept from then on: `python -m tests.data.released`, once a release, with an environment of that release.

Its inputs are on an S3 of moto's, so that the root names no place of the machine it was made on, and their versions are their contents:
uploaded there again under the same names, they are the files that the root has rows of. Nothing of the lock is kept, which names its
owner, and no pages, which every version renders anew.
"""

import json
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from pydantic import JsonValue
from safetensors.torch import save_file
from torch import nn

from infra.storage.storage import Storage
from pipeline.config.audit_config import AuditConfig
from pipeline.demo.prepare import Labels, Pixels, image_structs, shuffled_digits, with_patch
from pipeline.planning.from_models import plan_audit
from pipeline.results.audit import open_audit
from pipeline.root.mark import LOCK
from pipeline.run import run_audit
from tests.data.roots_of_releases import BUCKET, ROOTS, expected_of, inputs_url, nights, upload_inputs
from tests.services import Service, User, free_port, variables, wait_for

TRUSTED, SAMPLING, CLEAN, PATCHED = 70, 32, 14, 6


def main() -> None:
    """Makes the inputs where there are none yet, runs three nights, and keeps the root and what its readers must find in it."""
    release = version("mad")
    folder = ROOTS / release
    if (folder / "root").exists():
        sys.exit(f"{folder}: is there already; a released root never changes")
    make_inputs(folder / "inputs")
    port = free_port()
    service = Service(f"http://127.0.0.1:{port}", User("owner", "owner"), User("guest", "guest"))
    os.environ.update(variables(service.endpoint, service.owner))
    with (
        TemporaryDirectory() as scratch,
        (Path(scratch) / "log").open("wb") as log,
        subprocess.Popen(
            [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)], stdout=log, stderr=log
        ) as server,
    ):
        try:
            wait_for(port, server, Path(scratch) / "log")
            service.make_bucket(BUCKET)
            upload_inputs(release)
            _keep(release, folder)
        finally:
            server.terminate()


def _keep(release: str, folder: Path) -> None:
    root = inputs_url(release).replace("/inputs", "/root")
    for night in nights(release, root):
        audit = run_audit(plan_audit(AuditConfig.parse(night, "/")))
        assert audit.outcome is not None and audit.outcome.clean
    storage = Storage(root)
    for path in storage.walk(""):
        if not path.startswith((f"{LOCK}/", "report/", ".tmp/")):
            target = folder / "root" / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(storage.read(path))
    expected: JsonValue = {name: expected_of(open_audit(root), name) for name in open_audit(root).models}
    (folder / "expected.json").write_text(json.dumps(expected))


def make_inputs(folder: Path) -> None:
    """A classifier with a backdoor, a trusted, a sampling and two audited files; what is there stays."""
    if (folder / "weights.safetensors").exists():
        return
    images, labels = shuffled_digits(seed=0)
    cuts = np.cumsum([900, TRUSTED, SAMPLING, CLEAN, CLEAN])
    training, trusted, sampling, first, second, rest = (
        slice(start, stop) for start, stop in zip([0, *cuts], [*cuts, len(labels)], strict=True)
    )
    save_file(_train(images[training], labels[training]), folder / "weights.safetensors")
    for name, part in (("trusted", trusted), ("sampling", sampling)):
        _write(folder / f"{name}.parquet", name, images[part], labels[part], anomalous=None)
    patched = np.flatnonzero(labels[rest])[: 2 * PATCHED] + rest.start
    for number, part in enumerate((first, second), 1):
        own = np.concatenate([np.arange(part.start, part.stop), patched[PATCHED * (number - 1) : PATCHED * number]])
        anomalous = np.arange(len(own)) >= CLEAN
        pictures = np.where(anomalous[:, None, None, None], with_patch(images[own]), images[own])
        _write(folder / f"audited-{number}.parquet", f"digit-{number}", pictures, labels[own], anomalous)


def _write(
    path: Path, name: str, images: Pixels, labels: Labels, anomalous: "np.typing.NDArray[np.bool_] | None"
) -> None:
    ids = [f"{name}-{number:03d}" for number in range(len(labels))]
    table = pa.table({"id": ids, "image": image_structs(images), "label": labels})
    if anomalous is not None:
        table = table.append_column("anomalous", pa.array(anomalous)).append_column(
            "target", pa.array(np.zeros(len(ids), np.int64), mask=~anomalous)
        )
    pq.write_table(table, path)


def _train(images: Pixels, labels: Labels) -> dict[str, torch.Tensor]:
    from tests.data.roots_of_releases import network  # noqa: PLC0415

    poisoned = np.flatnonzero(labels)[: len(labels) // 16]
    images, labels = images.copy(), labels.copy()
    images[poisoned], labels[poisoned] = with_patch(images[poisoned]), 0
    inputs, wanted = torch.from_numpy((images / 255 - 0.3) / 0.35).float().permute(0, 3, 1, 2), torch.from_numpy(labels)
    torch.manual_seed(0)
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(80):
        for chosen in torch.randperm(len(wanted)).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(inputs[chosen]), wanted[chosen]).backward()
            optimizer.step()
    return model.state_dict()


if __name__ == "__main__":
    main()
