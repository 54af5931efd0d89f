"""The plan of an audit: every model is loaded once, checked, and measured; nothing is written."""

from collections.abc import Callable
from dataclasses import replace

from infra.errors import StorageError
from infra.events import Listener, Planning, ignore
from infra.execution.threads import compute_threads, run_in_compute_thread
from madcore import MadcoreError
from madcore.extraction.vjp_fallback import CHUNK_BYTES
from pipeline.config.audit_config import AuditConfig
from pipeline.config.schema import ModelConfig
from pipeline.data.batches import BATCH_MULTIPLE, ImageInputs, ModelInputs, TextInputs
from pipeline.data.reviews import read_reviews
from pipeline.errors import ConfigError, SourceError
from pipeline.planning.checks.labels import labels_outside
from pipeline.planning.checks.limits import check_samples
from pipeline.planning.earlier_runs.known_files import KnownFiles
from pipeline.planning.earlier_runs.rows import outdated_rows
from pipeline.planning.files import SampleFiles, find_files
from pipeline.planning.memory import Shapes, project_memory, shapes_of_rows
from pipeline.planning.plan import HELD_OUT_SAMPLES, SNAPSHOT_BYTES, AuditPlan, ModelPlan
from pipeline.planning.probe.found import Probe
from pipeline.planning.probe.model import probe
from pipeline.planning.recipe import ROWS_FORMAT, RowRecipe, count_labels
from pipeline.planning.row_keys import row_key, snapshots_key
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
    models, refused, known = [], {}, KnownFiles(earlier)
    for number, model in enumerate(config.models, start=1):
        report = _reporter(listener, model.name, number, len(config.models))
        try:
            plan = _plan_model(config, model, known, report)
            models.append(replace(plan, recomputed=outdated_rows(earlier, plan)))
        except (SourceError, StorageError, MadcoreError) as error:
            refused[model.name] = str(error)
    if not models:
        raise ConfigError("; ".join(f"model {name}: {reason}" for name, reason in refused.items()))
    return AuditPlan(config, tuple(models), refused, reviews)


def _reporter(listener: Listener, model: str, number: int, models: int) -> Callable[[str], None]:
    return lambda doing: listener(Planning(model, number, models, doing))


def _plan_model(config: AuditConfig, model: ModelConfig, known: KnownFiles, report: Callable[[str], None]) -> ModelPlan:
    report("reading the schemas of its files")
    files = find_files(config, model, known.identify)
    samples = sum(source.rows for source in files.trusted)
    check_samples(model, samples)
    probed = run_in_compute_thread(probe, config, model, files.trusted, report)
    warnings = (*probed.warnings, *_odd_labels(model, files, probed))
    if isinstance(probed.inputs, TextInputs):
        files = files.without_token_types() if probed.reads_token_types else files
        files = files.without_padded(probed.inputs.limits)
    recipe = _recipe(config, model, files, probed, warnings)
    inputs, shapes = _batched(
        probed, _shapes(config, model, probed, recipe, samples), int(config.run.memory_per_worker)
    )
    return ModelPlan(
        config=model,
        source=probed.source,
        undone=probed.undone,
        digest=probed.digest,
        row_key=row_key(model, probed, files.sampling),
        recipe=recipe.model_copy(update={"inputs": inputs}),
        sides=recipe.sides,
        refused_files=files.refused,
        memory=project_memory(shapes),
    )


def _odd_labels(model: ModelConfig, files: SampleFiles, probed: Probe) -> tuple[str, ...]:
    """A warning about labels of a classifier's trusted samples that are no class, if there are any.

    Raises:
        SourceError: trusted samples have labels, and none is a class; or a label of the sampling set is none.
    """
    if model.is_text:
        return ()
    wrong = labels_outside("sampling", files.sampling, probed.classes)
    if wrong:
        raise SourceError(f"{wrong}; weights cannot be sampled on them: check the labels of estimator.sampling")
    outside = labels_outside("trusted", files.trusted, probed.classes)
    return (f"{outside}; these samples explain nothing",) if outside else ()


def _recipe(
    config: AuditConfig, model: ModelConfig, files: SampleFiles, probed: Probe, warnings: tuple[str, ...]
) -> RowRecipe:
    """How the model's rows are made; how many texts go through it at once is left to `_batched`."""
    return RowRecipe(
        rows_format=ROWS_FORMAT,
        patterns=() if model.traced else model.gradient.layers,
        snapshots_key=snapshots_key(model, probed, files.sampling),
        layers=probed.coverage.covered,
        sides=probed.sides,
        fallback=dict(probed.fallback),
        shares=dict(probed.shares),
        not_covered=dict(probed.coverage.not_covered),
        classes=probed.classes,
        inputs=probed.inputs,
        trusted=files.trusted,
        audited=files.audited,
        sampling=files.sampling,
        weights=probed.weights,
        rows_per_task=config.run.rows_per_task,
        warnings=warnings,
    )


def _shapes(config: AuditConfig, model: ModelConfig, probed: Probe, recipe: RowRecipe, samples: int) -> Shapes:
    """What the memory of all stages follows from, of so many trusted samples."""
    labels = count_labels(model, recipe.classes)
    largest = max(source.rows for source in (*recipe.trusted, *recipe.audited))
    rows = largest * max(1, labels)
    return replace(
        shapes_of_rows(model, recipe, recipe.sides, samples),
        model_bytes=probed.model_bytes,
        sample_bytes=probed.sizes.sample_bytes,
        retained_bytes_per_sample=probed.sizes.retained_bytes_per_sample,
        samples_per_pass=probed.sizes.samples_per_pass,
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
    together = max(model.traced.batch, HELD_OUT_SAMPLES) * probed.sizes.sample_bytes
    return together + 8 * 4 * probed.weights + 3 * kept + 2 * held * probed.sizes.input_bytes


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
