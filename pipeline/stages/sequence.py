"""The four stages in their order. Each reads only what an earlier one has committed."""

from collections.abc import Callable, Sequence

from infra.events import StageEnded, Stopwatch
from pipeline.stages.curvature.step import run_curvature
from pipeline.stages.gradients.step import run_gradients
from pipeline.stages.reporting.step import run_reporting
from pipeline.stages.runner import StageInputs
from pipeline.stages.scoring.step import run_scoring

Step = Callable[[StageInputs], None]

STEPS: tuple[tuple[str, Step], ...] = (
    ("gradients", run_gradients),
    ("curvature", run_curvature),
    ("scoring", run_scoring),
    ("reporting", run_reporting),
)


def run_stages(inputs: StageInputs, stages: Sequence[str], check: Callable[[], None]) -> None:
    """Run stages for the models of a runner: their tasks are committed, no run is recorded, and nothing is published.

    Args:
        inputs: what every stage works on.
        stages: names of the stages to run; the order is that of STEPS.
        check: called after each stage; raises where the root's lock is lost.
    """
    for name, step in STEPS:
        if name in stages:
            watch = Stopwatch()
            step(inputs)
            inputs.runner.notify(StageEnded(name, watch.seconds))
            check()
