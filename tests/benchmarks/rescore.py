"""How fast everything but the gradients is done again from stored rows, over what this machine allows at most.

    python -m tests.benchmarks.rescore [ROWS]

ROWS (1,000,000) synthetic rows of 1,024 numbers in 16 layers are written to a root in a temporary folder, by the
project's own encoding and commits, 8,192 a task; 4,096 trusted rows beside them. No model is made or loaded. Then, with
this process's threads:

- the curvature of all rows (a transductive one) is rebuilt by Dask on threads, and its whitening:
  `Audit.curvature(...).whitening`;
- references are whitened and committed, and every row is scored and committed, by the pipeline's own worker of the
  scoring stage.

The figure is ROWS over the seconds of both together, with all their commits. The limits are measured before and after
in the same process: reading, twice the bytes of a row at rest (each of the two reads it) at the rate at which its files
are read; products, the row's float64 products with itself, layer by layer, and its float32 whitening and products with
the reference part, at the rates of just such products. The lower of the two binds. Tasks hold the same rows, in files
of their own; files are out of the page cache before they are read, where the system allows. The last line is one JSON
object.
"""

import json
import sys
import tempfile
import time
from dataclasses import dataclass

import torch

from infra.commits import Measures
from infra.execution.contract import Resources
from infra.execution.serial import SerialExecutor
from infra.execution.threads import run_in_compute_thread
from infra.storage.storage import Storage
from madcore import RowLayout
from madcore.curvature.kronecker import SideLayout
from pipeline.artifacts.curvature import encode_references, encode_whitening
from pipeline.artifacts.parts import CurvatureFolders
from pipeline.artifacts.rows import SCORING_BLOCK
from pipeline.artifacts.trusted import read_trusted
from pipeline.config.audit_config import AuditConfig
from pipeline.inputs.images import ImageInputs
from pipeline.planning.memory import ProjectedMemory
from pipeline.planning.plan import ModelPlan
from pipeline.planning.recipe import RowRecipe
from pipeline.results.audit import Audit, open_audit
from pipeline.results.rows import stored_parts
from pipeline.root.logs import SPLIT, curvature_log, stage_logs
from pipeline.stages.scoring.worker import ScoreTask, ScoringWorker, scoring_key
from tests.benchmarks.scoring_rate import SECONDS, forget, product_rate, read_rate
from tests.stored_roots import CLASSES, MODEL, Split, write_root

LAYOUT = RowLayout(tuple(f"layer {place}" for place in range(16)), (64,) * 16)


TASK_ROWS, TRUSTED = 8192, 4096


@dataclass(frozen=True)
class Timed:
    """Seconds of the curvature and of scoring."""

    curvature: float
    scoring: float


def synthetic_plan(url: str) -> ModelPlan:
    """What scoring reads of a plan: the score's config, the layout, the classes. There is no model to plan."""
    data: dict[str, str] = {"trusted": "trusted.parquet", "audited": "audited.parquet"}
    config = AuditConfig.parse(
        {
            "root": url,
            "models": [
                {
                    "name": MODEL,
                    "task": "classification",
                    "architecture": "none:none",
                    "weights": "none",
                    "data": dict(data),
                }
            ],
        }
    )
    sides = SideLayout(LAYOUT, (None,) * len(LAYOUT.sizes))
    recipe = RowRecipe(
        patterns=("*",),
        snapshots_key="",
        layers=(),
        sides=sides,
        fallback={},
        not_covered={},
        classes=CLASSES,
        inputs=ImageInputs((8, 8)),
        trusted=(),
        audited=(),
        sampling=(),
        weights=0,
        rows_per_task=TASK_ROWS,
    )
    return ModelPlan(
        config=config.models[0],
        source=None,
        digest="",
        row_key="rowkey",
        recipe=recipe,
        sides=sides,
        refused_files={},
        memory=ProjectedMemory(0, 0, 0, 0),
    )


def square_rate() -> float:
    """Floating point operations a second of a block's products with itself, layer by layer, in float64."""
    blocks, products = [torch.randn(SCORING_BLOCK, size, dtype=torch.float64) for size in LAYOUT.sizes], 0
    start = time.perf_counter()
    while time.perf_counter() - start < SECONDS:
        for block in blocks:
            block.T @ block
        products += 1
    return 2 * SCORING_BLOCK * sum(size**2 for size in LAYOUT.sizes) * products / (time.perf_counter() - start)


def limits(storage: Storage, paths: list[str], row_bytes: float, references: int) -> tuple[float, float]:
    """Rows a second that reading and that products allow."""
    squares = 2 * sum(size**2 for size in LAYOUT.sizes)
    products = squares + 2 * LAYOUT.k * references
    seconds = squares / run_in_compute_thread(square_rate)
    seconds += products / run_in_compute_thread(product_rate, LAYOUT.k, references)
    return read_rate(storage, paths) / (2 * row_bytes), 1 / seconds


def rebuilt(audit: Audit) -> CurvatureFolders:
    """The curvature by Dask, and the references, committed as the curvature stage does."""
    storage, curvature = audit.storage, audit.curvature(MODEL)
    whitening = curvature.whitening.compute()
    (log,) = stage_logs(storage, MODEL, "curvature")
    trusted = read_trusted(storage, log.attempt_folder(log.receipts()[SPLIT]))
    rows = torch.from_numpy(audit.rows(MODEL, "trusted").compute())[trusted.of("reference")]
    log, measures = (
        curvature_log(storage, MODEL, "rebuilt"),
        Measures(rows=len(trusted.ids), seconds=0.0, peak_memory_bytes=0),
    )
    none = [0.0] * len(LAYOUT.sizes)
    factor = log.commit("factor", dict(encode_whitening(whitening, none, none)), measures)
    whitened = run_in_compute_thread(whitening, rows)
    references = log.commit("references", dict(encode_references(whitened, trusted)), measures)
    return CurvatureFolders(log.attempt_folder(factor), log.attempt_folder(references), references.content)


def rescored(audit: Audit, plan: ModelPlan, folders: CurvatureFolders) -> None:
    """Scores and commits all audited rows."""
    key = scoring_key(plan, folders)
    tasks = [
        ScoreTask(MODEL, key, part, folders) for part in stored_parts(audit.storage, audit.summary(MODEL), "audited")
    ]
    for outcome in SerialExecutor().map_unordered(
        lambda: ScoringWorker(audit.storage.url, {MODEL: plan}), tasks, Resources()
    ):
        if outcome.error:
            raise RuntimeError(outcome.error)


def timed(audit: Audit, plan: ModelPlan, paths: list[str]) -> Timed:
    """Both, from files out of the page cache."""
    forget(audit.storage, paths)
    start = time.perf_counter()
    folders = rebuilt(audit)
    middle = time.perf_counter()
    forget(audit.storage, paths)
    begun = time.perf_counter()
    rescored(audit, plan, folders)
    return Timed(middle - start, time.perf_counter() - begun)


def measure(url: str, rows: int) -> dict[str, float | str]:
    """All figures, of a new root."""
    generator = torch.Generator().manual_seed(0)
    tasks = max(1, round(rows / TASK_ROWS))
    splits = [
        Split(torch.randn(n, LAYOUT.k, generator=generator), count) for n, count in ((TRUSTED, 1), (TASK_ROWS, tasks))
    ]
    write_root(url, LAYOUT, *splits, transductive=True)
    audit, plan, count = open_audit(url), synthetic_plan(url), tasks * TASK_ROWS
    receipts = [
        (log, receipt) for log in stage_logs(audit.storage, MODEL, "gradients") for receipt in log.receipts().values()
    ]
    paths = [f"{log.attempt_folder(receipt)}/{file.name}" for log, receipt in receipts for file in receipt.files]
    row_bytes = sum(file.bytes for _, receipt in receipts for file in receipt.files) / (count + TRUSTED)
    references = TRUSTED - TRUSTED // 4
    before = limits(audit.storage, paths, row_bytes, references)
    took = timed(audit, plan, paths)
    after = limits(audit.storage, paths, row_bytes, references)
    reading, products = ((one + other) / 2 for one, other in zip(before, after, strict=True))
    rate = count / (took.curvature + took.scoring)
    return {
        "rows": count,
        "curvature_seconds": round(took.curvature, 2),
        "scoring_seconds": round(took.scoring, 2),
        "rows_per_second": round(rate),
        "limit_reading": round(reading),
        "limit_products": round(products),
        "binds": "reading" if reading < products else "products",
        "over_limit": round(rate / min(reading, products), 3),
    }


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(measure(f"{folder}/root", int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000)))


if __name__ == "__main__":
    main()
