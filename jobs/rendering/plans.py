"""A plan as text for a terminal and as a JSON object."""

from dataclasses import asdict

from infra.formats.data.formats import PARQUET
from jobs.rendering.tables import size, table
from jobs.rendering.terminal import sentence
from madcore import RerunCost
from pipeline.data.sources import Source
from pipeline.operations.cost import RUN_REQUESTS
from pipeline.planning.checks.limits import certifiable
from pipeline.planning.coverage import coverage_warning, percent, shares_of
from pipeline.planning.plan import AuditPlan, Cost, ModelPlan
from pipeline.publication.summary import cost_estimate
from pipeline.root.documents import JsonObject
from pipeline.root.logs import STAGES

COLUMNS = (
    "model",
    "trusted",
    "audited",
    "tasks",
    "numbers a row",
    "rows at rest",
    "memory a worker",
    "layers",
    "of parameters",
    "of gradient",
    "by fallback",
    "not covered",
)


def plan_document(plan: AuditPlan) -> JsonObject:
    """The plan as a JSON object."""
    return {
        "root": plan.config.root,
        "stages": list(STAGES),
        "models": {model.name: _planned(model) for model in plan.models},
        "refused": dict(plan.refused),
        "cannot_fit": dict(plan.misfits),
        **(
            {
                "cost": {
                    "models": {name: cost_estimate(cost).json_object for name, cost in plan.costs.items()},
                    "run_requests": RUN_REQUESTS,
                }
            }
            if plan.costs
            else {}
        ),
    }


def _planned(model: ModelPlan) -> JsonObject:
    shares = shares_of(model)
    return {
        "digest": model.digest,
        "weights": model.undone,
        "weights_read": not (model.known or model.from_shapes),
        "from_shapes": model.from_shapes or None,
        "row_key": model.row_key,
        "trusted": {source.file.name: source.rows for source in model.trusted},
        "audited": {source.file.name: source.rows for source in model.audited},
        "inputs": {
            source.file.name: {role: str(getattr(source.columns, role)) for role in source.inputs}
            for source in (*model.trusted, *model.audited, *model.sampling)
        },
        "taken_as": {source.file.name: source.taken_as for source in _all_sources(model)},
        "refused_files": dict(model.refused_files),
        "tasks": len(model.row_tasks),
        "row_numbers": model.layout.k,
        "row_bytes": model.row_bytes,
        "recomputed": model.recomputed or None,
        "sampling": {source.file.name: source.rows for source in model.sampling},
        "snapshot_bytes": model.snapshot_bytes,
        "projected_memory_bytes": asdict(model.memory),
        "smallest_certified_group": certifiable(model.config, model.recipe),
        "layers": {
            "covered": dict(zip(model.layout.names, model.layout.sizes, strict=True)),
            "fallback": list(model.fallback),
            "fallback_cost": {name: asdict(cost) for name, cost in model.fallback.items()},
            "not_covered": dict(model.not_covered),
            "share_of_parameters": shares.of_parameters if shares is not None else None,
            "share_of_gradient": shares.of_gradient if shares is not None else None,
        },
        "warnings": list(model.recipe.warnings),
    }


def plan_text(plan: AuditPlan) -> str:
    """The plan as text."""
    lines = [
        f"root: {plan.config.root}",
        f"stages: {', '.join(STAGES)}",
        table(list(COLUMNS), [_model_row(model) for model in plan.models]),
        _weights_read(plan),
        *([cost_text(plan)] if plan.costs else []),
    ]
    for model in plan.models:
        lines += _notes(model)
    lines += [sentence(f"{name}: cannot be audited: {reason}") for name, reason in plan.refused.items()]
    lines += [sentence(f"cannot fit: model {name}: {reason}") for name, reason in plan.misfits.items()]
    return "\n".join(lines)


def _weights_read(plan: AuditPlan) -> str:
    """Of how many models planning read the weights."""
    known, shapes = sum(one.known for one in plan.models), sum(bool(one.from_shapes) for one in plan.models)
    read = f"weights: read of {len(plan.models) - known - shapes:,} of {len(plan.models):,} models"
    unchanged = f"; an earlier run read those of {known:,}, which have not changed" if known else ""
    return f"{read}{unchanged}{f'; {shapes:,} planned from shapes alone' if shapes else ''}"


def _model_row(model: ModelPlan) -> list[str]:
    return [
        model.name,
        f"{sum(source.rows for source in model.trusted):,}",
        f"{sum(source.rows for source in model.audited):,}",
        f"{len(model.row_tasks):,}",
        f"{model.layout.k:,}",
        size(model.row_bytes),
        size(model.memory.peak),
        str(len(model.layout.names)),
        *_shares(model),
        str(len(model.fallback)),
        str(len(model.not_covered)),
    ]


def _shares(model: ModelPlan) -> list[str]:
    """Of the selected modules' parameters and of their gradient, what the layers hold."""
    shares = shares_of(model)
    return ["-", "-"] if shares is None else [percent(one) for one in (shares.of_parameters, shares.of_gradient)]


def _notes(model: ModelPlan) -> list[str]:
    """What the table does not say of a model, one sentence each."""
    group = certifiable(model.config, model.recipe)
    notes = [f"warning: {warning}" for warning in model.recipe.warnings]
    notes += [f"planned from shapes alone, no layer is checked: {model.from_shapes}"] if model.from_shapes else []
    notes += _columns_read(model) if model.config.is_text else []
    notes += _files_read(model)
    notes += [_chains(model)] if model.config.traced else []
    notes += [f"the fdr target can flag no fewer than {group:,} samples, if any"] if group else []
    little = coverage_warning(model)
    notes += [little] if little is not None else []
    notes += [f"all rows are computed again, once: {model.recomputed}"] if model.recomputed else []
    notes += [f"weights: taken {model.undone}"] if model.undone else []
    notes += [f"by the fallback: {name}: {_rerun(cost)}" for name, cost in model.fallback.items()]
    notes += [f"not covered: {name}: {reason}" for name, reason in model.not_covered.items()]
    notes += [f"file left out: {reason}" for reason in model.refused_files.values()]
    return [sentence(f"{model.name}: {note}") for note in notes]


def _columns_read(model: ModelPlan) -> list[str]:
    """Which columns texts are made of, by files that have the same ones."""
    files = dict[str, list[str]]()
    for source in (*model.sources, *model.sampling):
        read = ", ".join(str(getattr(source.columns, role)) for role in source.inputs)
        files.setdefault(read, []).append(source.file.name)
    if len(files) == 1:
        return [f"texts are read from {read}" for read in files]
    return [f"texts of {_some(names)} are read from {read}" for read, names in files.items()]


def _files_read(model: ModelPlan) -> list[str]:
    """Which files are taken for something else than Parquet, and which have no ids of their own."""
    kinds = dict[str, list[str]]()
    for source in _all_sources(model):
        kinds.setdefault(source.taken_as, []).append(source.file.name)
    notes = [f"taken as {kind}: {_some(names)}" for kind, names in kinds.items() if kind != PARQUET.described]
    numbered = [source.file.name for source in _all_sources(model) if source.numbered]
    return notes + ([f"without a column of ids, named by file and row: {_some(numbered)}"] if numbered else [])


def _all_sources(model: ModelPlan) -> list[Source]:
    """All files, each once."""
    return [*{source.key: source for source in (*model.sources, *model.sampling)}.values()]


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 3:,} more" if len(names) > 3 else ""
    return f"{', '.join(names[:3])}{more}"


def cost_text(plan: AuditPlan) -> str:
    """What is not done yet is expected to cost, a line a model and one for all."""
    columns = ["expected cost", *STAGES, "worker-hours", "stored", "read", "requests"]
    costs = list(plan.costs.values())
    total = Cost(
        {stage: sum(cost.seconds[stage] for cost in costs) for stage in STAGES},
        sum(cost.bytes_stored for cost in costs),
        sum(cost.bytes_read for cost in costs),
        RUN_REQUESTS + sum(cost.requests for cost in costs),
    )
    return table(columns, [_cost_row(name, cost) for name, cost in (*plan.costs.items(), ("in all", total))])


def _cost_row(name: str, cost: Cost) -> list[str]:
    seconds = [f"{cost.seconds[stage]:,.1f} s" for stage in STAGES]
    return [
        name,
        *seconds,
        f"{cost.worker_hours:,.4f}",
        size(cost.bytes_stored),
        size(cost.bytes_read),
        f"{cost.requests:,}",
    ]


def _chains(model: ModelPlan) -> str:
    """What the chains of sampled weights cost, as a sentence."""
    settings, samples = model.config.traced, sum(source.rows for source in model.sampling)
    assert settings is not None
    kept = settings.chains * len(settings.kept)
    return (
        f"chains of sampled weights: {settings.chains}, of {settings.draws:,} draws each, on {samples:,} samples; "
        f"{kept:,} draws are kept, {size(model.snapshot_bytes)} at rest, "
        f"and each sample passes through the model {1 + kept:,} times"
    )


def _rerun(cost: RerunCost) -> str:
    """What the fallback costs a layer, as a clause."""
    module = cost.module or "the whole model"
    share, gradient = f"{100 * cost.parameters_share:.2g} %", size(cost.gradient_bytes)
    loop = ", sample by sample in a loop" if cost.one_by_one else ""
    return (
        f"{module}, with {share} of the model's parameters, runs forward and backward once more{loop}, "
        f"and each sample has a whole gradient of {gradient}"
    )
