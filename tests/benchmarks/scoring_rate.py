"""How fast stored rows are scored again, over what this machine allows at most.

    python -m tests.benchmarks.scoring_rate CONFIG

CONFIG, as JSON, is an audit that has been run. It is scored with another damping, so that the rows are read, a curvature is fitted, and every row
is scored; the figure is rows a second of the scoring stage, start and commits included, over the lower of two limits measured before
and after it in the same process, with as many threads: the rate at which the rows' own files are read, over the bytes that a row has at
rest; and the rate of float32 products of a block of rows with the reference part's, over the operations that a row's whitening and
its products with all reference rows take. Files are out of the page cache before they are read, where the system allows. The last line
is one JSON object.
"""

import json
import os
import secrets
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import torch

from infra.events import Event, StageEnded
from infra.execution.threads import run_in_compute_thread
from infra.storage.storage import Storage
from pipeline.artifacts.rows import SCORING_BLOCK
from pipeline.config.audit_config import AuditConfig
from pipeline.config.sections import Raw
from pipeline.planning.from_models import plan_audit
from pipeline.root.logs import stage_logs
from pipeline.run import run_audit

SECONDS = 1.0


def forget(storage: Storage, paths: Sequence[str]) -> None:
    """Takes files out of the page cache; other stores have none here."""
    for path in paths:
        with suppress(OSError, AttributeError), open(storage.full(path), "rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def read_rate(storage: Storage, paths: Sequence[str]) -> float:
    """Bytes a second of reading files whole, one after the other, for a few seconds at most."""
    forget(storage, paths)
    start, read = time.perf_counter(), 0
    for path in paths:
        read += len(storage.read(path))
        if time.perf_counter() - start > 3 * SECONDS:
            break
    return read / (time.perf_counter() - start)


def product_rate(k: int, references: int) -> float:
    """Floating point operations a second of a block of rows times the reference part's, in float32, as the stage has threads."""
    rows_bk, references_mk, products = torch.randn(SCORING_BLOCK, k), torch.randn(references, k), 0
    for _ in range(10):
        rows_bk @ references_mk.T
    start = time.perf_counter()
    while time.perf_counter() - start < SECONDS:
        rows_bk @ references_mk.T
        products += 1
    return 2 * SCORING_BLOCK * k * references * products / (time.perf_counter() - start)


class _Seconds:
    """Wall seconds of the stages, as a run says them."""

    def __init__(self) -> None:
        self.of: dict[str, float] = {}

    def __call__(self, event: Event) -> None:
        if isinstance(event, StageEnded):
            self.of[event.stage] = event.seconds


def rescored(raw: Raw, storage: Storage, paths: Sequence[str], factor: float) -> float:
    """Rows a second of the scoring stage with this damping, of which there is no score yet."""
    plan = plan_audit(AuditConfig.parse({**raw, "curvature": {"damping": {"factor": factor}}}))
    forget(storage, paths)
    seconds = _Seconds()
    run_audit(plan, until="scoring", listener=seconds)
    return sum(source.rows for source in plan.models[0].audited) / seconds.of["scoring"]


def measure(raw: Raw) -> dict[str, float | str]:
    """All figures, of an audit of one model and of absolute paths."""
    config = AuditConfig.parse(raw)
    (plan,), storage = plan_audit(config).models, Storage(config.root)
    receipts = [
        (log, receipt) for log in stage_logs(storage, plan.name, "gradients") for receipt in log.receipts().values()
    ]
    paths = [f"{log.attempt_folder(receipt)}/{file.name}" for log, receipt in receipts for file in receipt.files]
    row_bytes = sum(file.bytes for _, receipt in receipts for file in receipt.files) / sum(
        receipt.measures.rows for _, receipt in receipts
    )
    references = sum(source.rows for source in plan.trusted)
    references -= round(references * plan.config.calibration.fraction)
    flops = 2 * sum(size**2 for size in plan.layout.sizes) + 2 * plan.layout.k * references
    rates, limits = [], []
    for factor in (*(secrets.randbelow(10**9) / 1e10 + 0.1 for _ in range(3)), None):
        rows_read = read_rate(storage, paths) / row_bytes
        limits.append((rows_read, run_in_compute_thread(product_rate, plan.layout.k, references) / flops))
        if factor is not None:
            rates.append(rescored(raw, storage, paths, factor))
    reading, products = (sorted(values)[len(values) // 2] for values in zip(*limits, strict=True))
    shares = [
        2 * rate / (min(before) + min(after)) for rate, before, after in zip(rates, limits, limits[1:], strict=False)
    ]
    return {
        "rows_per_second": round(sorted(rates)[len(rates) // 2]),
        "limit_reading": round(reading),
        "limit_products": round(products),
        "binds": "reading" if reading < products else "products",
        "over_limit": round(sorted(shares)[len(shares) // 2], 3),
        "over_limit_lowest": round(min(shares), 3),
        "over_limit_highest": round(max(shares), 3),
    }


def main() -> None:
    print(json.dumps(measure(json.loads(Path(sys.argv[1]).read_text()))))


if __name__ == "__main__":
    main()
