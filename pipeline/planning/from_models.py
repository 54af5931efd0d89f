"""Making the plan of an audit: every model is loaded once, checked, and measured; nothing is written."""

from dataclasses import replace
from itertools import chain

from pydantic import JsonValue

from infra.errors import StorageError
from infra.execution.threads import compute_threads, run_in_compute_thread
from madcore import MadcoreError, RowLayout
from madcore.extraction.vjp_fallback import CHUNK_BYTES
from madcore.scoring.calibration import calibration_size
from pipeline.config.audit_config import AuditConfig
from pipeline.config.schema import FACTORED, ModelConfig
from pipeline.data.batches import BATCH_MULTIPLE, ImageInputs, ModelInputs
from pipeline.data.reviews import read_reviews
from pipeline.data.sources import INPUTS, Source, find_sources, read_ids
from pipeline.errors import ConfigError, SourceError
from pipeline.keys import key_of
from pipeline.planning.memory import Shapes, moments, project_memory
from pipeline.planning.plan import (
    HELD_OUT_SAMPLES,
    ROWS_FORMAT,
    SNAPSHOT_BYTES,
    SNAPSHOTS_FORMAT,
    AuditPlan,
    ModelPlan,
    check_samples,
    draws_of,
)
from pipeline.planning.probe import Probed, probe
from pipeline.root.mark import check_root, root_storage


def plan_audit(config: AuditConfig) -> AuditPlan:
    """Loads every model once, checks its layers against autograd, reads the schemas of all files, and writes nothing.

    Raises:
        ConfigError: no model is left to run, with every reason; or the table of reviews cannot be used.
        RootError: the root is not one.
    """
    check_root(root_storage(config.root))
    reviews = read_reviews(config)
    models, refused = [], {}
    for model in config.models:
        try:
            models.append(_plan_model(config, model))
        except (SourceError, StorageError, MadcoreError) as error:
            refused[model.name] = str(error)
    if not models:
        raise ConfigError("; ".join(f"model {name}: {reason}" for name, reason in refused.items()))
    return AuditPlan(config, tuple(models), refused, reviews)


def _plan_model(config: AuditConfig, model: ModelConfig) -> ModelPlan:
    trusted, trusted_refused = find_sources(config, model, "trusted")
    if trusted_refused:
        raise SourceError("; ".join(trusted_refused.values()))
    audited, refused_files = find_sources(config, model, "audited")
    sampling = _find_sampling(config, model, trusted)
    samples = _check_trusted(model, trusted)
    probed = run_in_compute_thread(probe, config, model, trusted)
    layout, rows = probed.sides.rows, max(source.rows for source in (*trusted, *audited))
    draws, reference = draws_of(model, probed.classes), samples - calibration_size(samples, model.calibration.fraction)
    fitted = samples + sum(source.rows for source in audited) if model.curvature.transductive else reference
    shapes = Shapes(
        layout=layout,
        stored_row_size=max(layout.k, probed.sides.stored.k) if model.curvature.kind in FACTORED else layout.k,
        model_bytes=probed.model_bytes,
        sample_bytes=probed.sample_bytes,
        retained_bytes_per_sample=probed.retained_bytes_per_sample,
        at_once=probed.at_once,
        task_rows=max(min(config.run.rows_per_task, rows * max(1, draws)), BATCH_MULTIPLE * draws),
        batch=max(min(config.run.batch_size, rows * max(1, draws)), BATCH_MULTIPLE * max(0, draws - 1)),
        reference=reference,
        classes=probed.classes,
        moments=moments(model, probed.sides, max(1, draws) * fitted),
        screened=samples if model.screened else 0,
        labelled_samples=sum(source.rows for source in audited if "anomalous" in source.truth),
        scored_at_once=compute_threads(),
        overhead_bytes=_besides(config, model, probed, sampling, rows),
    )
    inputs, shapes = _batched(probed, shapes, int(config.run.memory_per_worker))
    return ModelPlan(
        config=model,
        source=probed.source,
        digest=probed.digest,
        row_key=_row_key(model, probed, layout, sampling),
        snapshots_key=_snapshots_key(model, probed, sampling),
        layers=probed.coverage.covered,
        sides=probed.sides,
        fallback=probed.fallback,
        not_covered=probed.coverage.not_covered,
        classes=probed.classes,
        inputs=inputs,
        trusted=tuple(trusted),
        audited=tuple(audited),
        sampling=tuple(sampling),
        weights=probed.weights,
        refused_files=refused_files,
        rows_per_task=config.run.rows_per_task,
        memory=project_memory(shapes),
    )


def _find_sampling(config: AuditConfig, model: ModelConfig, trusted: list[Source]) -> list[Source]:
    """The files of the sampling set, none unless traces are asked for; refuses samples that are trusted too, by their ids."""
    if model.traced is None:
        return []
    sampling, refused = find_sources(config, model, "sampling")
    if refused:
        raise SourceError("; ".join(refused.values()))
    known = {name for source in trusted for ids in read_ids(source) for name in ids if name is not None}
    shared = [name for source in sampling for ids in read_ids(source) for name in ids if name in known]
    if shared:
        shown = ", ".join(repr(name) for name in shared[:3])
        raise SourceError(
            f"estimator.sampling: {len(shared):,} of {sum(source.rows for source in sampling):,} samples have an id that is trusted too ({shown}); weights "
            "sampled on trusted samples would explain them better than others: name files of other clean samples"
        )
    return sampling


def _besides(config: AuditConfig, model: ModelConfig, probed: Probed, sampling: list[Source], rows: int) -> int:
    """What rows need beside their batches (see `Shapes`)."""
    if model.traced is None:
        return 3 * max((max(CHUNK_BYTES, cost.gradient_bytes) for cost in probed.fallback.values()), default=0)
    kept = min(SNAPSHOT_BYTES, 4 * probed.weights * len(model.traced.kept)) + 4 * probed.weights
    held = max(sum(source.rows for source in sampling), min(config.run.rows_per_task, rows))
    together = max(model.traced.batch, HELD_OUT_SAMPLES) * probed.sample_bytes
    return together + 8 * 4 * probed.weights + 3 * kept + 2 * held * probed.input_bytes


def _batched(probed: Probed, shapes: Shapes, granted: int) -> tuple[ModelInputs, Shapes]:
    """How many samples go through the model at once: of images, a batch filled up; of texts, what the memory granted is enough for.

    Audited texts can be longer than any trusted one, and no plan can know without reading them. So a batch of texts has memory
    instead of a number of samples, and the texts are taken in as many groups as that takes.
    """
    if isinstance(probed.inputs, ImageInputs):
        return probed.inputs, replace(shapes, batch=max(BATCH_MULTIPLE, shapes.batch))
    room = granted - project_memory(replace(shapes, batch=0)).gradients
    fitting = max(1, min(shapes.batch, room // (shapes.sample_bytes + 3 * 4 * shapes.layout.k)))
    return replace(probed.inputs, batch_bytes=max(room, 0)), replace(shapes, batch=fitting)


def _check_trusted(model: ModelConfig, trusted: list[Source]) -> int:
    """Refuses repeated ids and a target out of reach; returns the number of trusted samples."""
    seen: set[str] = set()
    repeated: list[str] = []
    for name in chain.from_iterable(ids for source in trusted for ids in read_ids(source)):
        if name is not None and name in seen:
            repeated.append(name)
        elif name is not None:
            seen.add(name)
    if repeated:
        shown = ", ".join(repr(name) for name in repeated[:3])
        raise SourceError(
            f"data.trusted: {len(repeated)} repeated ids among {len(seen) + len(repeated):,} samples ({shown}); the split needs each id once"
        )
    samples = sum(source.rows for source in trusted)
    check_samples(model, samples)
    return samples


def _row_key(model: ModelConfig, probed: Probed, layout: RowLayout, sampling: list[Source]) -> str:
    return key_of(format=ROWS_FORMAT, layers=list(layout.names), **_of_rows(model, probed, sampling, {"sampling"}))


def _snapshots_key(model: ModelConfig, probed: Probed, sampling: list[Source]) -> str:
    """More draws, or more chains, go on from those that are there."""
    return (
        key_of(format=SNAPSHOTS_FORMAT, **_of_rows(model, probed, sampling, {"sampling", "draws", "chains"}))
        if model.traced is not None
        else ""
    )


def _of_rows(model: ModelConfig, probed: Probed, sampling: list[Source], but: set[str]) -> dict[str, JsonValue]:
    """What rows depend on, but for some settings of the estimator."""
    columns = model.data.columns
    more: dict[str, JsonValue] = (
        {"sampling": [source.key for source in sampling], "label": columns.label} if sampling else {}
    )
    if isinstance(probed.inputs, ImageInputs):
        more |= {"preprocess": model.data.preprocess.model_dump(mode="json"), "input_size": list(probed.inputs.size)}
    return {
        "model": probed.digest,
        "task": model.task,
        "columns": {role: getattr(columns, role) for role in ("id", *INPUTS[model.task])},
        "estimator": model.estimator.model_dump(mode="json", exclude=but),
        **more,
    }
