"""The commands that plan, run, rescore and sweep."""

from dataclasses import dataclass
from pathlib import Path

import typer

from infra.events import Notice
from infra.storage.storage import Storage
from infra.storage.urls import refuse_encoded
from jobs.console import CANNOT, FAILED, VERDICT, Common, Stage, complain
from jobs.planning import PlanningDisplay
from jobs.progress import ProgressDisplay
from jobs.rendering.plans import plan_document, plan_text
from jobs.rendering.results import run_text, unreached_text
from jobs.rendering.sweeps import sweep_text
from pipeline.config.audit_config import AuditConfig
from pipeline.config.durations import parse_duration
from pipeline.config.on_verdict import VERDICTS
from pipeline.data.ids import read_id_list
from pipeline.errors import ConfigError
from pipeline.operations.cost import estimate_costs
from pipeline.operations.grid import load_points
from pipeline.operations.repair import repair, restore_tables
from pipeline.operations.sweep import SWEEP_VERSION, sweep
from pipeline.planning.from_models import plan_audit
from pipeline.planning.from_rows import plan_rescore
from pipeline.planning.plan import AuditPlan
from pipeline.root.logs import STAGES
from pipeline.root.mark import check_root, root_storage
from pipeline.root.records import RunOutcome
from pipeline.run import Deadline, run_audit, run_audit_until

LAST_STAGE = STAGES[-1]


def show_plan(path: str, cost: bool, executor: str, common: Common) -> None:
    """`mad plan`: exit 1 if a model or file of the config cannot be audited, 3 if the plan cannot fit."""
    plan = _planned(AuditConfig.load(path), common)
    plan = estimate_costs(plan, executor) if cost else plan
    common.emit(plan_document(plan), plan_text(plan))
    if plan.misfits:
        raise typer.Exit(CANNOT)
    if not plan.complete:
        raise typer.Exit(FAILED)


def _planned(config: AuditConfig, common: Common, executor: str = "serial", address: str | None = None) -> AuditPlan:
    with PlanningDisplay(common) as display:
        return plan_audit(config, executor, address, display)


@dataclass(frozen=True)
class RunOptions:
    """How to run a plan.

    `address`: of the Ray cluster to join. `until`: the last stage. `fail_on`: the verdict that exits with 4.
    `cost`: whether the cost is estimated first.
    """

    executor: str = "serial"
    address: str | None = None
    until: Stage = "reporting"
    fail_on: str | None = None
    deadline: Deadline | None = None
    cost: bool = False


def deadline_of(text: str | None) -> Deadline | None:
    """The deadline, counted from now; raises ConfigError if the text is not a duration."""
    try:
        return Deadline(parse_duration(text)) if text is not None else None
    except ConfigError as error:
        raise ConfigError(f"--deadline {error}") from error


def repair_then_run(path: str, options: RunOptions, common: Common) -> None:
    """`mad run --repair`: drops what is damaged in the config's models, then runs like `run_config`."""
    config = AuditConfig.load(path)
    storage, models = root_storage(config.root), [model.name for model in config.models]
    if check_root(storage) is not None:
        with ProgressDisplay(common) as display:
            for line in repair(storage, models, display):
                display(Notice(line))
    try:
        _plan_and_run(config, options, _wanted_verdict(options), common)
    finally:
        if check_root(storage) is not None:
            restore_tables(storage, models)


def run_config(path: str, options: RunOptions, common: Common) -> None:
    """`mad run`: exit 3 if the deadline left models unfinished, 1 for failures, 4 for the verdict of --fail-on."""
    verdict = _wanted_verdict(options)
    _plan_and_run(AuditConfig.load(path), options, verdict, common)


def _wanted_verdict(options: RunOptions) -> str | None:
    """The verdict of --fail-on, if given; raises ConfigError if it does not exist, or if options contradict."""
    verdict = _parse_verdict(options.fail_on) if options.fail_on else None
    if verdict and options.until != LAST_STAGE:
        raise ConfigError(
            f"--fail-on needs a verdict, which only the stage {LAST_STAGE} gives; leave out --until {options.until}"
        )
    if options.deadline is not None and options.until != LAST_STAGE:
        raise ConfigError(
            "--deadline publishes the models that are complete, and none is before the stage "
            f"{LAST_STAGE}; leave out --until {options.until}"
        )
    return verdict


def _plan_and_run(config: AuditConfig, options: RunOptions, verdict: str | None, common: Common) -> None:
    plan = _planned(config, common, options.executor, options.address)
    _run(estimate_costs(plan, options.executor) if options.cost else plan, options, verdict, common)


def rescore_config(root: str, path: str, drop: str | None, options: RunOptions, common: Common) -> None:
    """`mad rescore`: like `mad run`, from stored rows; exit 1 if something failed."""
    config = AuditConfig.load(path).model_copy(update={"root": located(root)})
    plan = plan_rescore(config, read_id_list(located(drop)) if drop else frozenset())
    _run(plan, options, None, common)


def sweep_settings(root: str, path: str, options: RunOptions, common: Common) -> None:
    """`mad sweep`: exit 1 if a point of the grid, or a model in it, failed."""
    points = load_points(located(root), path)
    with ProgressDisplay(common) as display:
        found = sweep(points, options.executor, display, options.address)
    common.emit({"schema": SWEEP_VERSION, "root": located(root), "points": found}, sweep_text(found))
    failures = [f"point {row['point']}: {row['failure']}" for row in found if "failure" in row]
    for failure in failures:
        complain(failure)
    if failures:
        raise typer.Exit(FAILED)


def located(path: str) -> str:
    """A path from the command line as a URL or absolute path; raises StorageError where it could name another."""
    refuse_encoded(path)
    return path if "://" in path else str(Path(path).resolve())


def run_demo(root: str, common: Common) -> None:
    """`mad demo`: prepares the inputs if they are missing, then runs exactly like `mad run`."""
    from pipeline.demo.prepare import prepare_demo  # noqa: PLC0415

    name = root.rstrip("/")
    inputs = Path(f"{name.rpartition('/')[2] if '://' in name else name}-inputs")
    check_root(root_storage(root))
    config = prepare_demo(inputs, root)
    audit_config = AuditConfig.load(config).model_copy(update={"root": located(root)})
    _run(_planned(audit_config, common), RunOptions(), None, common)
    if common.output == "text":
        print(f"config: {config} (change it, then: mad run {config})", file=common.results)


def _run(plan: AuditPlan, options: RunOptions, verdict: str | None, common: Common) -> None:
    with ProgressDisplay(common) as display:
        if options.deadline is None:
            outcome = run_audit(plan, options.executor, options.until, display, options.address).outcome
        else:
            outcome = run_audit_until(plan, options.deadline.passed, options.executor, display, options.address).outcome
    assert outcome is not None
    common.emit(_outcome_document(outcome, options.until), run_text(outcome, Storage(plan.config.root)))
    for name, reason in outcome.failures.items():
        complain(f"model {name}: {reason}")
    if outcome.unreached:
        complain(unreached_text(outcome))
        raise typer.Exit(CANNOT)
    if not outcome.clean:
        raise typer.Exit(FAILED)
    if verdict and any(summary.verdict.value == verdict for summary in outcome.summaries.values()):
        raise typer.Exit(VERDICT)


def _outcome_document(outcome: RunOutcome, until: Stage) -> dict[str, object]:
    """The outcome as a JSON object: with summaries, or, where the run was to stop earlier, with the costs of stages."""
    models: dict[str, object] = {name: summary.json_object for name, summary in outcome.summaries.items()}
    if until != LAST_STAGE:
        for name, stages in outcome.stages.items():
            models[name] = {"stages": {stage: cost.json_object for stage, cost in stages.items()}}
    return {
        "run_id": outcome.run_id,
        "models": models,
        "failures": dict(outcome.failures),
        "failed_tasks": dict(outcome.failed_tasks),
        "refused_files": dict(outcome.refused_files),
        "unreached": list(outcome.unreached),
    }


def _parse_verdict(text: str) -> str:
    verdict = text.strip().lower().replace("-", " ").replace("_", " ")
    if verdict not in VERDICTS:
        raise ConfigError(f"--fail-on {text!r}: no such verdict; valid: {', '.join(repr(value) for value in VERDICTS)}")
    return verdict
