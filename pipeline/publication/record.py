"""The record of a run, written before its first task."""

import json
import platform
import uuid
from dataclasses import asdict
from importlib.metadata import version

from pydantic import JsonValue

from infra.events import stamp_after, utc_stamp
from infra.storage.files import digest
from infra.storage.storage import Storage
from pipeline.artifacts.reviews import encode_review
from pipeline.planning.plan import AuditPlan, ModelPlan
from pipeline.root.layout import review_file, run_file, runs
from pipeline.root.records import FORMAT, Document, encode_document

VERSIONED = ("mad", "torch", "numpy", "zarr", "pyarrow")


def begin(storage: Storage, plan: AuditPlan) -> str:
    """Records a run, with its resolved config, versions and digests, and returns its id: UTC time and a short digest.

    Ids sort in the order of the runs, also where the clock was set back since the latest.
    """
    config = plan.config.model_dump(mode="json")
    now = utc_stamp()
    stamp = max(now, stamp_after(next(reversed(runs(storage)), "")))
    run_id = f"{stamp}-{digest(json.dumps([config, uuid.uuid4().hex]).encode())[:8]}"
    record: Document = {
        "format": FORMAT,
        "run_id": run_id,
        "started": now,
        "versions": {"python": platform.python_version(), **{name: version(name) for name in _packages(plan)}},
        "config": config,
        "models": {model.name: _planned(model) for model in plan.models},
        "refused": dict(plan.refused),
    }
    reviews = encode_review(plan.reviews) if plan.config.review is not None else None
    if reviews is not None:
        record["review"] = {"samples": len(plan.reviews), "bytes": len(reviews), "sha256": digest(reviews)}
    storage.create(run_file(run_id), encode_document(record))
    if reviews is not None:
        storage.create(review_file(run_id), reviews)  # after the record: without one, `mad verify` misses it
    return run_id


def _packages(plan: AuditPlan) -> tuple[str, ...]:
    """Packages whose versions a run records; transformers, an extra, where one of its models is loaded."""
    return (
        *VERSIONED,
        *(["transformers"] if any(model.config.huggingface and not model.stored for model in plan.models) else []),
    )


def _planned(model: ModelPlan) -> Document:
    sources: JsonValue = {source.key: asdict(source.file) for source in model.sources}
    fitted: Document = (
        {"fitted_key": model.curvature_rows_key, "fitted_sources": [source.key for source in model.curvature_sources]}
        if model.labels_per_sample
        else {}
    )
    of_stored: Document = {"rows_of": model.stored.run_id, "dropped": list(model.dropped)} if model.stored else {}
    return {
        "digest": model.digest,
        "row_key": model.row_key,
        **fitted,
        "tasks": len(model.row_tasks),
        "sources": sources,
        **of_stored,
        "rows": model.recipe.model_dump(mode="json"),
    }
