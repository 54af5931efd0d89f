"""The plan of an audit: every model is loaded once, checked, and measured; nothing is written."""

from collections.abc import Callable
from dataclasses import replace
from itertools import chain

from pydantic import JsonValue

from infra.errors import StorageError
from infra.events import Listener, Planning, ignore
from infra.execution.threads import compute_threads, run_in_compute_thread
from madcore import MadcoreError
from madcore.extraction.vjp_fallback import CHUNK_BYTES
from pipeline.config.audit_config import AuditConfig
from pipeline.config.schema import PROBABILITIES, ModelConfig
from pipeline.data.batches import BATCH_MULTIPLE, ImageInputs, ModelInputs
from pipeline.data.input_columns import INPUTS
from pipeline.data.reviews import read_reviews
from pipeline.data.sources import Source, find_sources, read_ids
from pipeline.errors import ConfigError, SourceError
from pipeline.keys import key_of
from pipeline.planning.checks.labels import labels_outside
from pipeline.planning.checks.limits import check_samples
from pipeline.planning.checks.padding import check_padding, refuse_padded
from pipeline.planning.earlier_runs.rows import outdated_rows
from pipeline.planning.memory import Shapes, project_memory, shapes_of_rows
from pipeline.planning.plan import (
    HELD_OUT_SAMPLES,
    SNAPSHOT_BYTES,
    SNAPSHOTS_FORMAT,
    AuditPlan,
    ModelPlan,
)
from pipeline.planning.probe import Probe, probe
from pipeline.planning.recipe import ROWS_FORMAT, RowRecipe, count_labels
from pipeline.root.mark import check_root, root_storage
from pipeline.root.runs import Runs


def plan_audit(config: AuditConfig, listener: Listener = ignore) -> AuditPlan:
    """Load every model once, check its layers against autograd, read the schemas of all files, and write nothing.

    Args:
        config: the audit.
        listener: told what is being done, by events `Planning`, from more than one thread.

    Raises:
        ConfigError: no model is left to run, with every reason; or the table of reviews cannot be used.
        RootError: the config's root is not one.
    """
    storage = root_storage(config.root)
    check_root(storage)
    reviews, earlier = read_reviews(config), Runs(storage)
    models, refused = [], {}
    for number, model in enumerate(config.models, start=1):
        report = _reporter(listener, model.name, number, len(config.models))
        try:
            plan = _plan_model(config, model, report)
            models.append(replace(plan, recomputed=outdated_rows(earlier, plan)))
        except (SourceError, StorageError, MadcoreError) as error:
            refused[model.name] = str(error)
    if not models:
        raise ConfigError("; ".join(f"model {name}: {reason}" for name, reason in refused.items()))
    return AuditPlan(config, tuple(models), refused, reviews)


def _reporter(listener: Listener, model: str, number: int, models: int) -> Callable[[str], None]:
    return lambda doing: listener(Planning(model, number, models, doing))


def _plan_model(config: AuditConfig, model: ModelConfig, report: Callable[[str], None]) -> ModelPlan:
    report("reading the schemas of its files")
    trusted, trusted_refused = find_sources(config, model, "trusted")
    if trusted_refused:
        raise SourceError("; ".join(trusted_refused.values()))
    audited, refused_files = find_sources(config, model, "audited")
    sampling = _find_sampling(config, model, trusted)
    samples = _check_trusted(model, trusted)
    probed = run_in_compute_thread(probe, config, model, trusted, report)
    remarks = _remarks(model, trusted, sampling, probed)
    audited, padded = _unpadded(probed, [*trusted, *sampling], audited)
    recipe = RowRecipe(
        rows_format=ROWS_FORMAT,
        patterns=() if model.traced else model.gradient.layers,
        snapshots_key=_snapshots_key(model, probed, sampling),
        layers=probed.coverage.covered,
        sides=probed.sides,
        fallback=dict(probed.fallback),
        shares=dict(probed.shares),
        not_covered=dict(probed.coverage.not_covered),
        classes=probed.classes,
        inputs=probed.inputs,
        trusted=tuple(trusted),
        audited=tuple(audited),
        sampling=tuple(sampling),
        weights=probed.weights,
        rows_per_task=config.run.rows_per_task,
        warnings=probed.warnings,
    )
    inputs, shapes = _batched(
        probed, _shapes(config, model, probed, recipe, samples), int(config.run.memory_per_worker)
    )
    return ModelPlan(
        config=model,
        source=probed.source,
        undone=probed.undone,
        remarks=remarks,
        digest=probed.digest,
        row_key=_row_key(model, probed, sampling),
        recipe=recipe.model_copy(update={"inputs": inputs}),
        sides=recipe.sides,
        refused_files=refused_files | padded,
        memory=project_memory(shapes),
    )


def _remarks(model: ModelConfig, trusted: list[Source], sampling: list[Source], probed: Probe) -> tuple[str, ...]:
    """What is odd about the weights, or about the labels of a classifier's samples, without being wrong.

    Raises:
        SourceError: trusted samples have labels, and none is a class; or a label of the sampling set is none.
    """
    odd = [f"weights: {probed.lacking}"] if probed.lacking else []
    if model.is_text:
        return tuple(odd)
    wrong = labels_outside("sampling", sampling, probed.classes)
    if wrong:
        raise SourceError(f"{wrong}; weights cannot be sampled on them: check the labels of estimator.sampling")
    outside = labels_outside("trusted", trusted, probed.classes)
    return (*odd, *([f"{outside}; these samples explain nothing"] if outside else []))


def _find_sampling(config: AuditConfig, model: ModelConfig, trusted: list[Source]) -> list[Source]:
    """The files of the sampling set, none without loss traces.

    Raises:
        SourceError: a file cannot be used, or a sample has the id of a trusted one.
    """
    if model.traced is None:
        return []
    sampling, refused = find_sources(config, model, "sampling")
    if refused:
        raise SourceError("; ".join(refused.values()))
    known = {name for source in trusted for ids in read_ids(source) for name in ids if name is not None}
    shared = [name for source in sampling for ids in read_ids(source) for name in ids if name in known]
    if shared:
        shown, samples = ", ".join(repr(name) for name in shared[:3]), sum(source.rows for source in sampling)
        raise SourceError(
            f"estimator.sampling: {len(shared):,} of {samples:,} samples have the id of a trusted one ({shown}); "
            "weights sampled on trusted samples would explain them better than others; name files of other clean ones"
        )
    return sampling


def _unpadded(probed: Probe, needed: list[Source], audited: list[Source]) -> tuple[list[Source], dict[str, str]]:
    """The audited files without those that look padded, and why those are left out.

    Raises:
        SourceError: all of them do, or a needed file does.
    """
    if isinstance(probed.inputs, ImageInputs):
        return audited, {}
    check_padding(needed, probed.inputs.limits)
    padded = refuse_padded(audited, probed.inputs.limits)
    if len(padded) == len(audited):
        raise SourceError("; ".join(padded.values()))
    return [source for source in audited if source.file.name not in padded], padded


def _shapes(config: AuditConfig, model: ModelConfig, probed: Probe, recipe: RowRecipe, samples: int) -> Shapes:
    """What the memory of all stages follows from, of so many trusted samples."""
    labels = count_labels(model, recipe.classes)
    largest = max(source.rows for source in (*recipe.trusted, *recipe.audited))
    rows = largest * max(1, labels)
    return replace(
        shapes_of_rows(model, recipe, recipe.sides, samples),
        model_bytes=probed.model_bytes,
        sample_bytes=probed.sample_bytes,
        retained_bytes_per_sample=probed.retained_bytes_per_sample,
        samples_per_pass=probed.samples_per_pass,
        task_rows=max(min(config.run.rows_per_task, rows), BATCH_MULTIPLE * labels),
        batch=max(min(config.run.batch_size, rows), BATCH_MULTIPLE * max(0, labels - 1)),
        scored_at_once=compute_threads(),
        overhead_bytes=_overhead(model, probed, recipe, min(config.run.rows_per_task, largest)),
    )


def _overhead(model: ModelConfig, probed: Probe, recipe: RowRecipe, task_samples: int) -> int:
    """What rows need on top of their batches (see `Shapes`); a task has at most `task_samples`."""
    if model.traced is None:
        return 3 * max((max(CHUNK_BYTES, cost.gradient_bytes) for cost in probed.fallback.values()), default=0)
    kept = min(SNAPSHOT_BYTES, 4 * probed.weights * len(model.traced.kept)) + 4 * probed.weights
    held = max(sum(source.rows for source in recipe.sampling), task_samples)
    together = max(model.traced.batch, HELD_OUT_SAMPLES) * probed.sample_bytes
    return together + 8 * 4 * probed.weights + 3 * kept + 2 * held * probed.input_bytes


def _batched(probed: Probe, shapes: Shapes, granted: int) -> tuple[ModelInputs, Shapes]:
    """How many samples go through the model at once: a full batch of images; of texts, as many as fit in memory.

    Audited texts can be longer than any trusted one, and no plan can know that without reading them. So a batch of
    texts has memory instead of a number of samples, and the texts are taken in as many groups as that memory
    requires.
    """
    if isinstance(probed.inputs, ImageInputs):
        return probed.inputs, replace(shapes, batch=max(BATCH_MULTIPLE, shapes.batch))
    room = granted - project_memory(replace(shapes, batch=0)).gradients
    fitting = max(1, min(shapes.batch, room // (shapes.sample_bytes + 3 * 4 * shapes.layout.k)))
    return replace(probed.inputs, batch_bytes=max(room, 0)), replace(shapes, batch=fitting)


def _check_trusted(model: ModelConfig, trusted: list[Source]) -> int:
    """Refuse repeated ids and a target out of reach; return the number of trusted samples.

    Raises:
        SourceError: ids are repeated, or the samples are too few.
    """
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
            f"data.trusted: {len(repeated)} repeated ids among {len(seen) + len(repeated):,} samples ({shown}); "
            "the split needs each id once"
        )
    samples = sum(source.rows for source in trusted)
    check_samples(model, samples)
    return samples


def _row_key(model: ModelConfig, probed: Probe, sampling: list[Source]) -> str:
    settings = _settings_of_rows(model, probed, sampling, {"sampling"})
    return key_of(format=ROWS_FORMAT, layers=list(probed.sides.rows.names), **settings)


def _snapshots_key(model: ModelConfig, probed: Probe, sampling: list[Source]) -> str:
    """The key of the weights that loss traces are taken at, "" without them; more draws or chains continue."""
    if model.traced is None:
        return ""
    free = {"sampling", "draws", "chains"}
    return key_of(format=SNAPSHOTS_FORMAT, **_settings_of_rows(model, probed, sampling, free))


def _settings_of_rows(
    model: ModelConfig, probed: Probe, sampling: list[Source], free: set[str]
) -> dict[str, JsonValue]:
    """What rows depend on; of the estimator's settings without the free ones."""
    columns = model.data.columns
    more: dict[str, JsonValue] = {}
    if sampling:
        more = {"sampling": [source.key for source in sampling], "label": columns.label}
    if isinstance(probed.inputs, ImageInputs):
        more |= {"preprocess": model.data.preprocess.model_dump(mode="json"), "input_size": list(probed.inputs.size)}
    elif probed.inputs.limits.padding and columns.attention_mask is not None:
        more["padding"] = list(probed.inputs.limits.padding)
    if model.outputs == PROBABILITIES:
        more |= {"outputs": PROBABILITIES}
    return {
        "model": probed.digest,
        "task": model.task,
        "columns": {role: getattr(columns, role) for role in ("id", *INPUTS[model.task])},
        "estimator": model.estimator.model_dump(mode="json", exclude=free),
        **more,
    }
