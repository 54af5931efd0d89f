"""What a night costs in which nothing changed: no weights are read, and little else is."""

import ctypes
import mmap
import os
from collections import Counter
from pathlib import Path
from threading import Lock

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from pydantic import JsonValue

from infra.storage.storage import Storage
from pipeline.config.audit_config import AuditConfig
from pipeline.planning.from_models import plan_audit
from pipeline.run import run_audit
from tests.end_to_end.zoos import cpu_seconds_of_a_quiet_night, ran, three_models
from tests.infra.relays import Exchange, relayed
from tests.infra.stores import fresh_url
from tests.languages import gpt2
from tests.services import Service, speak_to

REQUESTS_OF_A_MODEL = 20

BYTES_OF_WEIGHTS = 1 << 20


class Counted:
    """A plan of a relay's: passes all on, and counts requests by what is asked of which object."""

    def __init__(self) -> None:
        """Of nothing yet."""
        self.requests, self._lock = Counter[str](), Lock()

    def __call__(self, exchange: Exchange) -> None:
        """Does as it is asked."""
        with self._lock:
            self.requests[f"{exchange.command} {exchange.path}"] += 1
        exchange.answer(exchange.ask_store())


def test_a_model_of_a_store_costs_few_requests_and_none_for_its_weights(
    on_moto: Service, digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    zoo, counted, totals = three_models(tmp_path, digits), Counted(), list[int]()
    weights = Storage(fresh_url("s3"))
    for name in ("ant", "bee", "cat"):
        weights.upload(f"{name}.safetensors", tmp_path / f"{name}.safetensors")
    with relayed(on_moto.port, counted) as endpoint:
        speak_to(endpoint, on_moto.owner, monkeypatch)
        for names in (("ant",), ("ant", "bee", "cat")):
            models: JsonValue = [
                {
                    "name": name,
                    "architecture": "pipeline.demo.network:digit_cnn",
                    "weights": f"{weights.url}/{name}.safetensors",
                }
                for name in names
            ]
            raw = {**zoo.raw(names, data={"audited": "day0.parquet"}), "root": fresh_url("s3"), "models": models}
            config = AuditConfig.parse(raw, str(tmp_path))
            run_audit(plan_audit(config))
            counted.requests.clear()
            audit = run_audit(plan_audit(config))
            assert ran(audit) == {}
            assert not [asked for asked in counted.requests if asked.startswith("GET") and ".safetensors" in asked]
            totals.append(counted.requests.total())
    assert (totals[1] - totals[0]) / 2 <= REQUESTS_OF_A_MODEL


def uncached(path: Path) -> None:
    """Make the system forget what it has read of a file."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def cached_bytes(path: Path) -> int:
    """How much of a file the system has read and holds, whoever read or mapped it."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY) as mapped:
        held = (ctypes.c_ubyte * -(-len(mapped) // mmap.PAGESIZE))()
        start = ctypes.addressof(view := ctypes.c_byte.from_buffer(mapped))
        failed = ctypes.CDLL(None, use_errno=True).mincore(ctypes.c_void_p(start), len(mapped), held)
        del view
    assert not failed, os.strerror(ctypes.get_errno())
    return sum(one & 1 for one in held) * mmap.PAGESIZE


def night(config: AuditConfig) -> None:
    run_audit(plan_audit(config))


def audited_language_model(folder: Path, embedding: int, blocks: int) -> AuditConfig:
    """An audit of a language model of this size, with texts for it, that has run once."""
    gpt2(vocabulary=32000, embedding=embedding, blocks=blocks).save_pretrained(folder / "model")
    generator = torch.Generator().manual_seed(0)
    for split, rows in (("trusted", 40), ("audited", 20)):
        ids = [torch.randint(32000, (8,), generator=generator).tolist() for _ in range(rows)]
        names = [f"{split}{row}" for row in range(rows)]
        texts = pa.table({"id": names, "input_ids": ids, "completion_start": [4] * rows})
        pq.write_table(texts, folder / f"{split}.parquet")
    raw: dict[str, JsonValue] = {
        "root": "root",
        "task": "causal_lm",
        "models": [{"name": "gpt", "huggingface": "model"}],
        "data": {"trusted": "trusted.parquet", "audited": "audited.parquet"},
        "estimator": {"layers": ["*.h.0.*"], "projection": {"rank": 2}},
        "calibration": {"target": {"fpr": 0.1}},
    }
    config = AuditConfig.parse(raw, str(folder))
    night(config)
    return config


@pytest.mark.parametrize(
    ("embedding", "blocks", "cpu_seconds"),
    [(24, 2, 3.0), pytest.param(512, 13, 0.3, marks=pytest.mark.faults, id="57 million parameters")],
)
def test_a_model_on_a_disk_costs_next_to_nothing_and_its_weights_stay_unread(
    tmp_path: Path, embedding: int, blocks: int, cpu_seconds: float
) -> None:
    config, weights = audited_language_model(tmp_path, embedding, blocks), tmp_path / "model/model.safetensors"
    uncached(weights)
    if cached_bytes(weights):
        pytest.skip("this file system does not forget what it has read")
    spent = cpu_seconds_of_a_quiet_night(config, tmp_path)
    assert cached_bytes(weights) < BYTES_OF_WEIGHTS
    assert spent < cpu_seconds
    assert len(weights.read_bytes()) <= cached_bytes(weights)  # what reading them would have shown
