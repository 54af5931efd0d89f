"""What samples and memory allow: the targets in reach, the smallest group to certify, and why a model does not fit."""

from dataclasses import asdict

from madcore import MadcoreError
from madcore.scoring.calibration import calibration_size, check_target, smallest_certified_group
from pipeline.config.schema import ModelConfig
from pipeline.errors import SourceError
from pipeline.planning.memory import PROCESS_BYTES, ProjectedMemory
from pipeline.planning.recipe import RowRecipe

GIB = 1 << 30


def check_samples(model: ModelConfig, samples: int) -> None:
    """Refuse a target that this many trusted samples cannot reach.

    Raises:
        SourceError: they cannot.
    """
    calibration = calibration_size(samples, model.calibration.fraction)
    try:
        check_target(model.calibration.target.level, calibration, samples)
    except MadcoreError as error:
        raise SourceError(
            f"calibration: {error}; add trusted samples, or raise calibration.fraction "
            f"({model.calibration.fraction:g}) or the target"
        ) from error


def certifiable(model: ModelConfig, recipe: RowRecipe) -> int | None:
    """For an fdr target, the fewest samples it can flag, if any; None for an fpr target."""
    level = model.calibration.target.fdr
    if level is None:
        return None
    trusted, audited = (sum(source.rows for source in sources) for sources in (recipe.trusted, recipe.audited))
    return smallest_certified_group(level, calibration_size(trusted, model.calibration.fraction), audited)


def describe_misfit(model: ModelConfig, memory: ProjectedMemory, granted: int) -> str:
    """Why a model does not fit in the bytes granted to a worker: the largest stage, both numbers, and the remedy."""
    needs = asdict(memory)
    rank = "estimator.draws" if model.traced else "estimator.projection.rank"
    remedies = {
        "gradients": _remedy_of_rows(model),
        "curvature": f"lower {rank}, or use fewer trusted samples",
        "scoring": f"lower {rank}, or use fewer trusted samples",
        "reporting": "audit fewer samples at once, or set data.columns.anomalous: null",
    }
    worst = max(needs, key=lambda stage: needs[stage])
    return (
        f"the stage {worst} would need {needs[worst] / GIB:.2f} GiB a worker, run.memory_per_worker grants "
        f"{granted / GIB:.2f} GiB ({PROCESS_BYTES / GIB:.2f} GiB of it for Python and torch alone); "
        f"{remedies[worst]}, or grant more"
    )


def _remedy_of_rows(model: ModelConfig) -> str:
    if model.traced is not None:
        return "lower estimator.batch, run.batch_size or run.rows_per_task"
    if model.is_text:
        return "lower run.rows_per_task, or use shorter trusted texts"
    return "lower run.batch_size or run.rows_per_task"
