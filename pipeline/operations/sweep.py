"""A grid of settings on stored rows: of each point what calibration says, how well held-out trusted samples are explained, and, with truth, AUROC.

Nothing is published and no run recorded; curvature, scores and reports are committed under their keys, so that a
sweep that was cut off goes on, and a rescore or run with the settings of a point finds its curvature and scores done.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import Field, JsonValue, ValidationError

from infra.commits import read_file
from infra.events import Listener, ignore
from infra.execution.choose import EXECUTORS, open_executor
from infra.execution.contract import Resources
from infra.storage.storage import Storage
from pipeline.artifacts.curvature import read_trusted
from pipeline.artifacts.scores import FACTS
from pipeline.config.audit_config import AuditConfig, merge, read_mapping
from pipeline.config.sections import Raw, Section
from pipeline.errors import ConfigError
from pipeline.planning.from_rows import plan_point
from pipeline.planning.plan import AuditPlan
from pipeline.root.logs import STAGES
from pipeline.root.mark import open_root, root_lock, root_storage
from pipeline.stages.progress import ModelRun
from pipeline.stages.runner import StageInputs, StepRunner
from pipeline.stages.sequence import run_stages

SWEEP_VERSION = 1


MOST_POINTS = 1000


class Grid(Section):
    """What is varied; what is not given stays as the audit has it. A damping that is a number is a factor of the mean eigenvalue.

    A rank below the stored one is that of stored rows re-projected (see `madcore.reprojection`).
    """

    dampings: tuple[float | Raw, ...] = ()
    curvatures: tuple[str, ...] = ()
    scores: tuple[str | Raw, ...] = ()
    layers: tuple[tuple[str, ...], ...] = ()
    ranks: tuple[Annotated[int, Field(ge=1, le=1024)], ...] = ()


class SweepFile(Section):
    """A sweep's file: `audit`, the path of a config or the config itself, and the `grid`."""

    audit: str | Raw
    grid: Grid = Field(default_factory=Grid)


@dataclass(frozen=True)
class Point:
    """One point of the grid: how it is shown, and its config."""

    settings: Raw
    config: AuditConfig


def load_points(root: str, path: str | Path) -> list[Point]:
    """The points of a sweep's file, in the order of its lists; settings that make the same config are one point.

    Raises:
        ConfigError: the file, the audit in it, or a point makes no sense.
    """
    folder = Path(path).resolve().parent
    try:
        sweep = SweepFile.model_validate(read_mapping(Path(path)))
    except ValidationError as error:
        lines = [
            f"{'.'.join(map(str, detail['loc']))}: {detail['msg'][0].lower()}{detail['msg'][1:]}"
            for detail in error.errors(include_url=False)
        ]
        known = ", ".join(Grid.model_fields)
        raise ConfigError(
            f"{path}: {'; '.join(lines)}; a sweep has audit (a config, or its path) and grid (of {known})"
        ) from error
    if isinstance(sweep.audit, str):
        place = folder / sweep.audit
        base, folder = read_mapping(place), place.resolve().parent
    else:
        base = sweep.audit
    if sweep.grid.ranks:
        _check_projected(path, base)
    points: dict[str, Point] = {}
    for settings in _products(sweep.grid):
        config = AuditConfig.parse({**_with(base, settings), "root": root}, str(folder))
        points.setdefault(
            json.dumps([_effective(model.model_dump(mode="json")) for model in config.models], sort_keys=True),
            Point(settings, config),
        )
    if len(points) > MOST_POINTS:
        raise ConfigError(
            f"{path}: the grid has {len(points):,} points, at most {MOST_POINTS:,} can be swept at once; leave some out"
        )
    return list(points.values())


def _check_projected(path: str | Path, base: Raw) -> None:
    """Refuses ranks for an audit that has a model whose rows are not projected."""
    models = base.get("models")
    for section in (base, *(models if isinstance(models, list) else [])):
        estimator = section.get("estimator") if isinstance(section, dict) else None
        if isinstance(estimator, dict) and estimator.get("kind") == "loss_trace":
            raise ConfigError(
                f"{path}: grid.ranks: rows of estimator.kind: loss_trace are losses, which are not projected and have no rank; leave ranks out"
            )


def _products(grid: Grid) -> Iterator[Raw]:
    """Settings of every point, by the names that they have in a config's sections."""
    axes: dict[str, list[JsonValue]] = {
        "curvature": list(grid.curvatures),
        "damping": [
            {"kind": "relative_mean", "factor": damping} if isinstance(damping, float) else damping
            for damping in grid.dampings
        ],
        "score": list(grid.scores),
        "layers": [[*patterns] for patterns in grid.layers],
        "rank": list(grid.ranks),
    }
    given = {name: values for name, values in axes.items() if values}
    for values in product(*given.values()):
        yield dict(zip(given, values, strict=True))


def _with(base: Raw, settings: Raw) -> Raw:
    """An audit's mapping with the settings of a point, which go before those of its models."""
    curvature: Raw = {"kind": settings["curvature"]} if "curvature" in settings else {}
    if settings.get("curvature") != "identity" and "damping" in settings:
        curvature["damping"] = settings["damping"]
    score = settings.get("score")
    over: Raw = {"curvature": curvature} if curvature else {}
    over |= {"score": score if isinstance(score, dict) else {"kind": score}} if score else {}
    estimator: Raw = {"layers": settings["layers"]} if "layers" in settings else {}
    estimator |= {"projection": {"rank": settings["rank"]}} if "rank" in settings else {}
    over |= {"estimator": estimator} if estimator else {}
    models = base.get("models")
    own: JsonValue = (
        [
            merge(model, {name: over[name] for name in over if name in model})
            for model in models
            if isinstance(model, dict)
        ]
        if isinstance(models, list)
        else models
    )
    return {**merge(base, over), "models": own}


def _effective(model: Raw) -> Raw:
    """A model's settings without the damping of a curvature that has none."""
    curvature = model["curvature"]
    identity = isinstance(curvature, dict) and curvature["kind"] == "identity"
    return {**model, "curvature": "identity"} if identity else model


def sweep(
    points: Sequence[Point], executor: str = "serial", listener: Listener = ignore, address: str | None = None
) -> list[Raw]:
    """Computes all points, one after the other.

    Returns:
        Of each point and model a document: `point`, `settings`, `model`, and either `failure` or `calibration`,
        `explained` (mean and median coupling of the calibration part with the reference part; None for a score that
        is no coupling), `verdict`, `flagged`, `audited`, and `evaluation`, None without truth.

    Raises:
        ConfigError: no such executor, or no point has rows that it can be computed from.
        LockHeld: a run is at work in the root.
    """
    if executor not in EXECUTORS:
        raise ConfigError(f"executor {executor!r} is not available in this version; available: {', '.join(EXECUTORS)}")
    config, plans = points[0].config, [_planned(point) for point in points]
    refused = [plan for plan in plans if isinstance(plan, str)]
    if len(refused) == len(plans):
        raise ConfigError(refused[0])
    storage, resources = (
        root_storage(config.root),
        Resources(config.run.workers, config.run.gpus_per_worker, int(config.run.memory_per_worker)),
    )
    found = list[Raw]()
    with open_executor(executor, address, resources) as opened, root_lock(storage) as lock:
        for number, (point, plan) in enumerate(zip(points, plans, strict=True)):
            head: Raw = {"point": number, "settings": point.settings}
            runner = StepRunner({}, opened, resources, listener)
            found += [
                {**head, **own}
                for own in (
                    [{"model": None, "failure": plan}]
                    if isinstance(plan, str)
                    else _point(storage, plan, runner, lock.check)
                )
            ]
    return found


def _planned(point: Point) -> AuditPlan | str:
    """A point's plan, or why it has none: others of the grid may do."""
    open_root(root_storage(point.config.root))
    try:
        return plan_point(point.config).fitting()
    except (ConfigError, MemoryError) as error:
        return str(error)


def _point(storage: Storage, plan: AuditPlan, runner: StepRunner, check: Callable[[], None]) -> Iterator[Raw]:
    models = {model.name: ModelRun(model) for model in plan.models}
    run_stages(StageInputs(plan.config, storage, replace(runner, models=models)), STAGES, check)
    for name, reason in plan.refused.items():
        yield {"model": name, "failure": reason}
    for name, model in models.items():
        yield {"model": name, **({"failure": model.failure} if model.failure else _figures(storage, model))}


def _figures(storage: Storage, model: ModelRun) -> Raw:
    assert model.curvature is not None
    facts = json.loads(read_file(storage, f"{model.report_folder}/{FACTS}"))
    scores = read_trusted(storage, model.curvature.references).calibration_scores
    finite = -scores[np.isfinite(scores)]
    coupling = model.plan.config.score.resolved != "leverage" and len(finite)
    return {
        "calibration": facts["calibration"],
        "explained": {"mean": float(finite.mean()), "median": float(np.median(finite))} if coupling else None,
        "verdict": facts["verdict"],
        "flagged": facts["counts"]["flagged"],
        "audited": facts["counts"]["audited"],
        "evaluation": facts["evaluation"],
    }
