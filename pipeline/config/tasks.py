"""What each task allows in a config, and what it says of a model; how its outputs are read is in `pipeline.tasks`."""

from dataclasses import dataclass
from typing import Literal, get_args

from pipeline.config.curvature import CurvatureKind

Task = Literal["classification", "causal_lm", "binary", "multi_label", "regression"]


CURVATURES: tuple[str, ...] = get_args(CurvatureKind)


WITHOUT_CLASSES = ("top_coupling", "mean_coupling", "leverage")


@dataclass(frozen=True)
class TaskFacts:
    """A task's measurements and scores, the default first, its curvatures, and what `outputs` may say of its model.

    `has_classes`: whether outputs are logits of classes, one of which is predicted. `truth`: roles of columns about the
    truth that its files may have. `traceable`: whether loss traces can be taken, which need a loss.
    """

    measurements: tuple[str, ...]
    scores: tuple[str, ...]
    curvatures: tuple[str, ...]
    outputs: tuple[str, ...]
    has_classes: bool = False
    truth: tuple[str, ...] = ("anomalous",)
    traceable: bool = False


_CLASSES = TaskFacts(
    measurements=("margin",),
    scores=(
        "prediction_coupling",
        "class_coupling",
        "mean_coupling",
        "top_coupling",
        "concordance",
        "leverage",
    ),
    curvatures=CURVATURES,
    outputs=("logits", "probabilities"),
    has_classes=True,
    truth=("label", "anomalous", "target"),
    traceable=True,
)


TASKS: dict[Task, TaskFacts] = {
    "classification": _CLASSES,
    "binary": _CLASSES,
    "causal_lm": TaskFacts(
        measurements=("token_margin", "completion_nll"),
        scores=("top_coupling", "mean_coupling", "concordance", "leverage"),
        curvatures=tuple(kind for kind in CURVATURES if kind != "ggn"),
        outputs=("logits",),
        traceable=True,
    ),
    "multi_label": TaskFacts(
        measurements=("label_margin",),
        scores=WITHOUT_CLASSES,
        curvatures=("identity", "block_moment"),
        outputs=("logits", "probabilities"),
    ),
    "regression": TaskFacts(
        measurements=("output",),
        scores=WITHOUT_CLASSES,
        curvatures=("identity", "block_moment"),
        outputs=(),
    ),
}
