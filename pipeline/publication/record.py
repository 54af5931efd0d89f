"""The record of a run, written before its first task."""

import json
import platform
import uuid
from importlib.metadata import version

from infra.events import stamp_after, utc_stamp
from infra.storage.files import digest
from infra.storage.storage import Storage
from infra.version import installed_version
from pipeline.artifacts.reviews import encode_review
from pipeline.planning.plan import AuditPlan, ModelPlan
from pipeline.root.documents import RECORD_FORMAT
from pipeline.root.layout import review_file, run_file, runs
from pipeline.root.records import ModelRecord, RecordedConfig, ReviewRecord, RunRecord

VERSIONED = ("torch", "numpy", "zarr", "pyarrow")


def begin(storage: Storage, plan: AuditPlan) -> str:
    """Records a run, with its resolved config, versions and digests, and returns its id: UTC time and a short digest.

    Ids sort in the order of the runs, also where the clock was set back since the latest.
    """
    config, now = plan.config.model_dump(mode="json"), utc_stamp()
    stamp = max(now, stamp_after(next(reversed(runs(storage)), "")))
    run_id = f"{stamp}-{digest(json.dumps([config, uuid.uuid4().hex]).encode())[:8]}"
    reviews = encode_review(plan.reviews) if plan.config.review is not None else None
    record = RunRecord(
        format=RECORD_FORMAT,
        run_id=run_id,
        started=now,
        versions=_versions(plan),
        config=RecordedConfig.model_validate(config),
        models={model.name: _model_record(model) for model in plan.models},
        refused=dict(plan.refused),
        review=_review_record(len(plan.reviews), reviews) if reviews is not None else None,
    )
    storage.create(run_file(run_id), record.encode())
    if reviews is not None:
        storage.create(review_file(run_id), reviews)  # after the record: without one, `mad verify` misses it
    return run_id


def _versions(plan: AuditPlan) -> dict[str, str]:
    packages = {name: version(name) for name in _packages(plan)}
    return {"python": platform.python_version(), "mad": installed_version(), **packages}


def _packages(plan: AuditPlan) -> tuple[str, ...]:
    """Packages whose versions a run records; transformers, an extra, where one of its models is loaded."""
    of_texts = any(model.config.huggingface and not model.stored for model in plan.models)
    return (*VERSIONED, "transformers") if of_texts else VERSIONED


def _review_record(samples: int, data: bytes) -> ReviewRecord:
    return ReviewRecord(samples=samples, bytes=len(data), sha256=digest(data))


def _model_record(model: ModelPlan) -> ModelRecord:
    return ModelRecord(
        digest=model.digest,
        row_key=model.row_key,
        fitted_key=model.curvature_rows_key if model.labels_per_sample else None,
        fitted_sources=tuple(source.key for source in model.curvature_sources) if model.labels_per_sample else None,
        tasks=len(model.row_tasks),
        sources={source.key: source.file for source in model.sources},
        rows_of=model.stored.run_id if model.stored else None,
        dropped=tuple(model.dropped) if model.stored else None,
        rows=model.recipe.model_dump(mode="json"),
        probe=model.probe.key if model.probe is not None else None,
    )
