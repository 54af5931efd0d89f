"""A grid of settings on stored rows: calibration, how well held-out trusted samples are explained, AUROC with truth.

Nothing is published and no run is recorded. Curvature, scores and reports are committed under their keys, so that an
interrupted sweep resumes, and a rescore or run with the settings of a point finds its curvature and scores done.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from infra.commits import Receipt, read_file
from infra.events import Listener, ignore
from infra.execution.choose import EXECUTORS, open_executor
from infra.execution.contract import Resources
from infra.storage.storage import Storage
from pipeline.artifacts.scores import FACTS
from pipeline.artifacts.trusted import read_trusted
from pipeline.errors import ConfigError
from pipeline.operations.grid import Point, Raw
from pipeline.planning.from_rows import plan_point
from pipeline.planning.plan import AuditPlan
from pipeline.root.logs import STAGES, Receipts
from pipeline.root.mark import open_root, root_lock, root_storage
from pipeline.stages.progress import ModelRun
from pipeline.stages.runner import StageInputs, StepRunner
from pipeline.stages.sequence import run_stages

SWEEP_VERSION = 1


def sweep(
    points: Sequence[Point], executor: str = "serial", listener: Listener = ignore, address: str | None = None
) -> list[Raw]:
    """Compute all points, one after the other.

    Returns:
        A document for each point and model: `point`, `settings`, `model`, and either `failure` or `calibration`,
        `explained` (mean and median coupling of the calibration part with the reference part; None for a score that
        is no coupling), `verdict`, `flagged`, `audited`, and `evaluation`, None without truth.

    Raises:
        ConfigError: no such executor, or no point has rows that it can be computed from.
        LockHeld: a run is at work in the root.
    """
    if executor not in EXECUTORS:
        raise ConfigError(f"executor {executor!r} is not available in this version; available: {', '.join(EXECUTORS)}")
    plans, known = _plans(points)
    refused = [plan for plan in plans if isinstance(plan, str)]
    if len(refused) == len(plans):
        raise ConfigError(refused[0])
    config, found = points[0].config, list[Raw]()
    root = root_storage(config.root)
    resources = Resources(config.run.workers, config.run.gpus_per_worker, int(config.run.memory_per_worker))
    with open_executor(executor, address, resources) as opened, root_lock(root) as lock:
        for number, (point, plan) in enumerate(zip(points, plans, strict=True)):
            head: Raw = {"point": number, "settings": point.settings}
            if isinstance(plan, str):
                found.append({**head, "model": None, "failure": plan})
            else:
                runner = StepRunner({}, opened, resources, listener, known=known)
                found += [{**head, **own} for own in _point(lock.guarded(), plan, runner, lock.check)]
    return found


def _plans(points: Sequence[Point]) -> tuple[list[AuditPlan | str], Receipts]:
    """The plan of each point, or why it has none, which others may have; and receipts, which are read once for all."""
    plans, known = list[AuditPlan | str](), dict[str, Mapping[str, Receipt]]()
    for point in points:
        open_root(root_storage(point.config.root))
        try:
            plan = plan_point(point.config, known).fitting()
        except (ConfigError, MemoryError) as error:
            plans.append(str(error))
        else:
            known.update(plan.receipts)
            plans.append(replace(plan, receipts={}))
    return plans, known


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
