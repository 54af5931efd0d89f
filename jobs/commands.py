"""The commands that plan and run."""

from dataclasses import dataclass
from pathlib import Path

import typer

from infra.events import Notice
from infra.storage.storage import Storage
from jobs.console import CANNOT, FAILED, VERDICT, Common, Stage, complain
from jobs.progress import ProgressDisplay
from jobs.rendering import plan_document, plan_text, run_text, unreached_text
from jobs.sweeping import sweep_text
from pipeline.config.audit_config import AuditConfig
from pipeline.config.durations import parse_duration
from pipeline.config.on_verdict import VERDICTS
from pipeline.data.ids import read_id_list
from pipeline.errors import ConfigError
from pipeline.operations.cost import estimated
from pipeline.operations.repair import repair, restore_tables
from pipeline.operations.sweep import SWEEP_VERSION, load_points, sweep
from pipeline.planning.from_models import plan_audit
from pipeline.planning.from_rows import plan_rescore
from pipeline.planning.plan import AuditPlan
from pipeline.root.logs import STAGES
from pipeline.root.mark import check_root, root_storage
from pipeline.root.records import RunOutcome
from pipeline.run import Deadline, run_audit, run_audit_until

LAST_STAGE = STAGES[-1]


def show_plan(path: str, cost: bool, executor: str, common: Common) -> None:
    """`mad plan`: exit 1 where a model or file of the config cannot be audited, 3 where the plan cannot fit."""
    plan = plan_audit(AuditConfig.load(path))
    plan = estimated(plan, executor) if cost else plan
    common.emit(plan_document(plan), plan_text(plan))
    if plan.misfits:
        raise typer.Exit(CANNOT)
    if not plan.complete:
        raise typer.Exit(FAILED)


@dataclass(frozen=True)
class RunOptions:
    """How to run: the executor and the cluster that it joins, the last stage, the verdict to exit with 4 for, when to stop, whether cost is foretold."""

    executor: str = "serial"
    address: str | None = None
    until: Stage = "reporting"
    fail_on: str | None = None
    deadline: Deadline | None = None
    cost: bool = False


def deadline_of(text: str | None) -> Deadline | None:
    """What --deadline says, counted from now; raises ConfigError where it is no duration."""
    try:
        return Deadline(parse_duration(text)) if text is not None else None
    except ConfigError as error:
        raise ConfigError(f"--deadline {error}") from error


def repair_then_run(path: str, options: RunOptions, common: Common) -> None:
    """`mad run --repair`: drops what is damaged of the config's models, then runs as `run_config`."""
    config = AuditConfig.load(path)
    storage, models = root_storage(config.root), [model.name for model in config.models]
    if check_root(storage) is not None:
        with ProgressDisplay(common) as display:
            for line in repair(storage, models, display):
                display(Notice(line))
    try:
        run_config(path, options, common)
    finally:
        if check_root(storage) is not None:
            restore_tables(storage, models)


def run_config(path: str, options: RunOptions, common: Common) -> None:
    """`mad run`: exit 3 where the deadline left models unfinished, 1 where something failed, 4 where a model has the verdict `options.fail_on`."""
    verdict = _parse_verdict(options.fail_on) if options.fail_on else None
    if verdict and options.until != LAST_STAGE:
        raise ConfigError(
            f"--fail-on needs a verdict, and there is none before the stage {LAST_STAGE}; leave out --until {options.until}"
        )
    if options.deadline is not None and options.until != LAST_STAGE:
        raise ConfigError(
            f"--deadline publishes what is whole when it comes, and nothing is before the stage {LAST_STAGE}; leave out --until {options.until}"
        )
    plan = plan_audit(AuditConfig.load(path))
    _run(estimated(plan, options.executor) if options.cost else plan, options, verdict, common)


def rescore_config(root: str, path: str, drop: str | None, options: RunOptions, common: Common) -> None:
    """`mad rescore`: as `mad run`, from stored rows; exit 1 where something failed."""
    config = AuditConfig.load(path).model_copy(update={"root": located(root)})
    plan = plan_rescore(config, read_id_list(located(drop)) if drop else frozenset())
    _run(plan, options, None, common)


def sweep_settings(root: str, path: str, options: RunOptions, common: Common) -> None:
    """`mad sweep`: exit 1 where a point or a model of one failed."""
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
    """A path of the command line as a URL or absolute path."""
    return path if "://" in path else str(Path(path).resolve())


def run_demo(root: str, common: Common) -> None:
    """`mad demo`: prepares the inputs where they are missing, then runs exactly as `mad run`."""
    from pipeline.demo import prepare_demo  # noqa: PLC0415

    name = root.rstrip("/")
    inputs = Path(f"{name.rpartition('/')[2] if '://' in name else name}-inputs")
    check_root(root_storage(root))
    config = prepare_demo(inputs, root)
    audit_config = AuditConfig.load(config).model_copy(update={"root": located(root)})
    _run(plan_audit(audit_config), RunOptions(), None, common)
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
        raise ConfigError(
            f"--fail-on {text!r}: there is no such verdict; verdicts: {', '.join(repr(value) for value in VERDICTS)}"
        )
    return verdict
