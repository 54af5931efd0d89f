"""The plan of an audit: every model is checked and measured, by loading it where the root does not know it."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

from infra.errors import StorageError
from infra.events import Listener, Planning, ignore
from infra.execution.threads import compute_threads
from madcore import MadcoreError
from madcore.extraction.vjp_fallback import CHUNK_BYTES
from pipeline.config.audit_config import AuditConfig
from pipeline.config.schema import ModelConfig
from pipeline.data.classes.names import class_names, shown
from pipeline.data.reviews import read_reviews
from pipeline.errors import ConfigError, SourceError
from pipeline.inputs.batches import BATCH_MULTIPLE
from pipeline.inputs.model_inputs import ModelInputs
from pipeline.inputs.sequences import SequenceInputs
from pipeline.inputs.tokens import TextInputs
from pipeline.planning.candidates import Candidate, Probed, find_candidate, probe_candidates
from pipeline.planning.checks.labels import labels_outside
from pipeline.planning.earlier_runs.known_files import KnownFiles
from pipeline.planning.earlier_runs.rows import outdated_rows
from pipeline.planning.files import SampleFiles
from pipeline.planning.memory import Shapes, project_memory, shapes_of_rows
from pipeline.planning.plan import HELD_OUT_SAMPLES, SNAPSHOT_BYTES, AuditPlan, ModelPlan
from pipeline.planning.probe.found import Probe
from pipeline.planning.probe.task import Report
from pipeline.planning.recipe import ROWS_FORMAT, RowRecipe, count_labels
from pipeline.planning.resources import resources_of
from pipeline.planning.row_keys import row_key, snapshots_key
from pipeline.root.mark import check_root, root_storage
from pipeline.root.runs import Runs
from pipeline.tasks.measured import by_number


def plan_audit(
    config: AuditConfig, executor: str = "serial", address: str | None = None, listener: Listener = ignore
) -> AuditPlan:
    """Plan every model: check it, read the schemas of all files, and write nothing.

    A model that the root knows is not loaded, unless it failed in the latest run. A worker loads any other once, and
    checks its layers against autograd; a run of the plan stores what was found out.

    Args:
        config: the audit.
        executor: where models are loaded: `serial`, in this process, or `ray`, on a cluster.
        address: of the Ray cluster to join; None takes RAY_ADDRESS from the environment, or else starts one here.
        listener: told what is being done, by events `Planning`, from more than one thread.

    Raises:
        ConfigError: no such executor; no model is left to run, with every reason; or the table of reviews cannot be
            used.
        RootError: the config's root is not one.
        ClusterError: no cluster answers, or it lacks what the config requires.
    """
    resources_of(config, executor)
    storage, report = root_storage(config.root), _reporter(config, listener)
    root = storage if check_root(storage) is not None else None
    reviews, earlier = read_reviews(config), Runs(storage)
    refused, candidates, files = dict[str, str](), dict[str, Candidate](), KnownFiles(earlier)
    for model in config.models:
        with _refusal(refused, model.name):
            candidates[model.name] = find_candidate(config, model, root, files, partial(report, model.name))
    doubted = earlier.failed_in_latest()
    settled = {name: one for name, one in candidates.items() if name not in doubted}
    probed = {name: known for name, one in settled.items() if (known := one.known) is not None}
    unknown = [one for name, one in candidates.items() if name not in probed]
    for outcome in probe_candidates(config, unknown, executor, address, report):
        name = outcome.task.model
        if outcome.result is None:
            refused[name] = str(outcome.error)
        else:
            probed[name] = candidates[name].probed(*outcome.result)
    plans = dict[str, ModelPlan]()
    for name, one in candidates.items():
        with _refusal(refused, name):
            if name in probed:
                plan = _plan_model(config, one, probed[name])
                plans[name] = replace(plan, recomputed=outdated_rows(earlier, plan))
    refused = {model.name: refused[model.name] for model in config.models if model.name in refused}
    if not plans:
        raise ConfigError("; ".join(f"model {name}: {reason}" for name, reason in refused.items()))
    return AuditPlan(config, tuple(plans.values()), refused, reviews)


@contextmanager
def _refusal(refused: dict[str, str], model: str) -> Iterator[None]:
    """Refuses one model of several for what is wrong with it."""
    try:
        yield
    except (SourceError, StorageError, MadcoreError) as error:
        refused[model] = str(error)


def _reporter(config: AuditConfig, listener: Listener) -> Report:
    numbers = {model.name: number for number, model in enumerate(config.models, start=1)}
    return lambda model, doing: listener(Planning(model, numbers[model], len(numbers), doing))


def _plan_model(config: AuditConfig, candidate: Candidate, probed: Probed) -> ModelPlan:
    files, found = candidate.samples, probed.probe
    model = by_number(candidate.model, found.class_names)
    samples = sum(source.rows for source in files.trusted)
    names = class_names(model, found.class_names, files.trusted) if model.has_classes else ()
    warnings = (*found.warnings, *_odd_labels(model, files, found, names))
    files = files if not model.has_classes else files.with_known_names(names).without_features(names)
    if isinstance(found.inputs, TextInputs):
        files = files.without_token_types() if found.reads_token_types else files
        files = files.without_padded(found.inputs.limits)
    recipe = _recipe(config, model, files, found, warnings).model_copy(update={"class_names": names})
    shapes = _shapes(config, model, found, recipe, samples)
    inputs, shapes = _batched(found, shapes, int(config.run.memory_per_worker))
    return ModelPlan(
        config=model,
        source=found.source,
        undone=found.undone,
        digest=found.digest,
        row_key=row_key(model, found, files.sampling),
        recipe=recipe.model_copy(update={"inputs": inputs}),
        sides=recipe.sides,
        refused_files=files.refused,
        memory=project_memory(shapes),
        probe=probed.artifact,
        from_shapes=found.from_shapes,
        weightless=found.weightless,
    )


def _odd_labels(model: ModelConfig, files: SampleFiles, probed: Probe, names: tuple[str, ...]) -> tuple[str, ...]:
    """A warning about labels of a classifier's trusted samples that are no class, if there are any.

    Raises:
        SourceError: trusted samples have labels, and none is a class; or a label of the sampling set is none.
    """
    if not model.has_classes:
        return ()
    named = bool(model.data.labels) or any("label" in source.named for source in (*files.trusted, *files.sampling))
    if named and names and len(names) != probed.classes:
        raise SourceError(
            f"labels are names, of which there are {len(names):,} ({shown(names)}), and the model has "
            f"{probed.classes:,} classes; list the name of each in data.labels, in the order of the model's outputs"
        )
    wrong = labels_outside("sampling", files.sampling, probed.classes, names)
    if wrong:
        raise SourceError(f"{wrong}; weights cannot be sampled on them: check the labels of estimator.sampling")
    outside = labels_outside("trusted", files.trusted, probed.classes, names)
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
    """How many samples go through the model at once: a full batch; of texts, as many as fit in memory.

    Audited texts can be longer than any trusted one, and no plan can know that without reading them. So a batch of
    texts has memory instead of a number of samples, and the texts are taken in as many groups as that memory
    requires.
    """
    if not isinstance(probed.inputs, TextInputs | SequenceInputs):
        return probed.inputs, replace(shapes, batch=max(BATCH_MULTIPLE, shapes.batch))
    room = granted - project_memory(replace(shapes, batch=0)).gradients
    fitting = max(1, min(shapes.batch, room // (shapes.sample_bytes + 3 * 4 * shapes.layout.k)))
    return replace(probed.inputs, batch_bytes=max(room, 0)), replace(shapes, batch=fitting)
