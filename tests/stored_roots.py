"""Roots of rows that no model computed: written as a run writes them, by the same encoding and commits, and opened as any other."""

from dataclasses import dataclass

import numpy as np
import torch

from infra.commits import Measures
from infra.storage.storage import Storage
from madcore import RowLayout
from pipeline.artifacts.rows import encode_rows, to_stored
from pipeline.artifacts.samples import SampleColumns
from pipeline.artifacts.trusted import TrustedPart, TrustedSamples, encode_trusted
from pipeline.data.statuses import OK
from pipeline.root.layout import summary_file
from pipeline.root.logs import SPLIT, curvature_log, rows_log
from pipeline.root.mark import claim_root
from pipeline.root.summary import Counts, FileRows, LayerCoverage, ModelVerdict, Summary, SummaryFiles, TableSummary

CLASSES = 10


MODEL = "synthetic"


@dataclass(frozen=True)
class Split:
    """Samples of a split: the rows (n, k) of a task, and how many tasks hold them, the same files each."""

    rows: torch.Tensor
    tasks: int


def write_root(url: str, layout: RowLayout, trusted: Split, audited: Split, transductive: bool) -> None:
    """A root of one model, MODEL: every fourth trusted sample calibrates, the others are the reference part."""
    storage = Storage(url)
    claim_root(storage)
    of_trusted, of_audited = (
        _rows(storage, name, layout, split) for name, split in (("trusted", trusted), ("audited", audited))
    )
    n = len(trusted.rows) * trusted.tasks
    parts: list[TrustedPart] = ["reference" if place % 4 else "calibration" for place in range(n)]
    samples = TrustedSamples([f"s{place}" for place in range(n)], parts, torch.arange(n) % CLASSES, np.full(n, np.nan))
    log = curvature_log(storage, MODEL, "synthetic")
    receipt = log.commit(SPLIT, dict(encode_trusted(samples)), _measures(n))
    summary = Summary(
        counts=Counts(audited=len(audited.rows) * audited.tasks, flagged=0),
        verdict=ModelVerdict(value="nothing unusual"),
        run_id="20260101T000000000Z-00000000",
        model=MODEL,
        settings={"curvature": {"kind": "block_moment", "transductive": transductive}},
        layers=LayerCoverage(covered=layout.names),
        files=SummaryFiles(
            trusted=(FileRows(name="t", rows=n),),
            audited=(FileRows(name="a", rows=len(audited.rows) * audited.tasks),),
        ),
        table=TableSummary(bytes=0, sha256=""),
        manifests={"trusted": (of_trusted,), "audited": (of_audited,), "curvature": (log.publish([receipt]),)},
    )
    storage.write(summary_file(MODEL), summary.encode())


def _rows(storage: Storage, source: str, layout: RowLayout, split: Split) -> str:
    log, n, files = rows_log(storage, MODEL, "rowkey", source), len(split.rows), encoded(split.rows, layout)
    receipts = [
        log.commit(f"{first:012d}-{first + n:012d}", dict(files), _measures(n))
        for first in range(0, n * split.tasks, n)
    ]
    return log.publish(receipts)


def encoded(rows_nk: torch.Tensor, layout: RowLayout) -> dict[str, bytes]:
    """The files of a task of these rows, as float16, predicted classes in turn."""
    n, norms = len(rows_nk), rows_nk.norm(dim=1)
    half, scales = to_stored(rows_nk, layout, "float16")
    samples = SampleColumns(
        [f"s{row}" for row in range(n)], list(range(n)), torch.arange(n) % CLASSES, norms, norms, [OK] * n
    )
    return encode_rows(half, scales, samples, layout)


def _measures(rows: int) -> Measures:
    return Measures(rows=rows, seconds=0.0, peak_memory_bytes=0)
