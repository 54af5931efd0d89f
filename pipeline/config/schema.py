"""The sections of a config, as frozen, checked values. Defaults stand here and nowhere else."""

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BeforeValidator, ByteSize, Field, JsonValue, StringConstraints, field_validator, model_validator

from pipeline.config.estimators import Estimator, LossTrace
from pipeline.config.sections import Paths, Place, Section, Seed, Share

if TYPE_CHECKING:
    from madcore.scoring.coupling import LayersForm, ScoreKind


RESERVED_NAMES = ("runs", "report", "mad.json", "index")


Triple = tuple[float, float, float]


Task = Literal["classification", "causal_lm"]


CURVATURES: dict[str, tuple[str, ...]] = {
    "classification": ("identity", "block_moment", "ggn", "fisher", "kfac", "ekfac"),
    "causal_lm": ("identity", "block_moment", "fisher", "kfac", "ekfac"),
}


MEASUREMENTS: dict[str, tuple[str, ...]] = {
    "classification": ("margin",),
    "causal_lm": ("token_margin", "completion_nll"),
}


SCORES: dict[str, tuple[str, ...]] = {
    "classification": (
        "prediction_coupling",
        "class_coupling",
        "mean_coupling",
        "top_coupling",
        "concordance",
        "leverage",
    ),
    "causal_lm": ("top_coupling", "mean_coupling", "concordance", "leverage"),
}


FACTORED = ("kfac", "ekfac")


CLASS_MEANS = ("prediction_coupling", "class_coupling")


class Columns(Section):
    """Names of columns. A name that the config itself gives must be there; a default is looked for.

    A task reads its own inputs' columns: `image` or, of a language model, `input_ids` and `completion_start`.
    """

    id: str = "id"
    image: str = "image"
    input_ids: str = "input_ids"
    completion_start: str = "completion_start"
    label: str | None = "label"
    anomalous: str | None = "anomalous"
    target: str | None = "target"

    def insists_on(self, column: str) -> bool:
        """Whether the config itself names this column."""
        return column in self.model_fields_set and getattr(self, column) is not None


class Preprocess(Section):
    """How images become the model's input: RGB in [0, 1], resized to size x size where they differ, minus mean, over std."""

    mean: Triple = (0.0, 0.0, 0.0)
    std: Triple = (1.0, 1.0, 1.0)
    size: Annotated[int, Field(ge=1, le=8192)] | None = None

    @model_validator(mode="after")
    def _positive(self) -> "Preprocess":
        if min(self.std) <= 0:
            raise ValueError(f"std must be positive, got {list(self.std)}")
        return self


class Data(Section):
    """Where the samples are and how to read them."""

    trusted: Paths
    audited: Paths
    columns: Columns = Columns()
    preprocess: Preprocess = Preprocess()


class RelativeMean(Section):
    """lambda = factor x the layer's mean eigenvalue."""

    kind: Literal["relative_mean"] = "relative_mean"
    factor: Annotated[float, Field(gt=0)] = 1.0


class Absolute(Section):
    """lambda = value, in the curvature's own unit."""

    kind: Literal["absolute"] = "absolute"
    value: Annotated[float, Field(gt=0)]


def _of_kind(default: str) -> BeforeValidator:
    """What makes a mapping without a `kind` one of the default kind."""
    return BeforeValidator(lambda value: {"kind": default, **value} if isinstance(value, dict) else value)


class CurvatureSection(Section):
    """The matrix that rows are whitened by, fitted on the reference part, or, `transductive`, on the audited samples and the calibration part too.

    `seed`: of the labels that `fisher` samples; 0 is left out of what is written and of keys.
    """

    kind: Literal["identity", "block_moment", "ggn", "fisher", "kfac", "ekfac"] = "block_moment"
    seed: Annotated[Seed, Field(exclude_if=lambda seed: seed == 0)] = 0
    damping: Annotated[RelativeMean | Absolute, Field(discriminator="kind"), _of_kind("relative_mean")] = RelativeMean()
    transductive: bool = False

    @model_validator(mode="after")
    def _something_to_fit(self) -> "CurvatureSection":
        if self.transductive and self.kind == "identity":
            raise ValueError(
                "transductive says whom the curvature is fitted on, and identity is fitted on nobody; choose one of them"
            )
        if self.seed and self.kind != "fisher":
            raise ValueError(f"seed is that of the labels that kind: fisher samples; {self.kind} samples none")
        return self


def _whole_or_auto(value: JsonValue) -> JsonValue:
    if value == "auto" or (isinstance(value, int) and not isinstance(value, bool) and value >= 1):
        return value
    raise ValueError(f"q must be auto or a whole number from 1 on, got {value!r}")


class ScoreSection(Section):
    """The anomaly score. `form`: of `concordance`, with the class that fits best, or with all; `debiased`: of class means.

    Both are left out of what is written and of keys at their default.
    """

    kind: Literal[
        "auto", "prediction_coupling", "class_coupling", "mean_coupling", "top_coupling", "concordance", "leverage"
    ] = "auto"
    form: Annotated[Literal["auto", "class", "mean"], Field(exclude_if=lambda form: form == "auto")] = "auto"
    layers: Literal["auto", "concatenated", "apart"] = "auto"
    q: Annotated[int | Literal["auto"], BeforeValidator(_whole_or_auto)] = "auto"
    debiased: Annotated[bool, Field(exclude_if=lambda debiased: not debiased)] = False

    @property
    def nearest(self) -> int | None:
        """The q of `top_coupling`; None where it follows from the size of the reference part."""
        return None if self.q == "auto" else self.q

    @property
    def resolved(self) -> 'ScoreKind | Literal["concordance"]':
        """The kind; `auto` is resolved when a config is parsed.

        Raises:
            ValueError: it is not.
        """
        if self.kind == "auto":
            raise ValueError("the score is still auto: parse the config with AuditConfig.parse or load")
        return self.kind

    @property
    def layers_form(self) -> "LayersForm":
        """The form, with `auto` resolved."""
        return "concatenated" if self.layers == "auto" else self.layers


class Target(Section):
    """What flags are allowed to cost: a false positive rate, or a false discovery rate."""

    fpr: Share | None = None
    fdr: Share | None = None

    @model_validator(mode="after")
    def _exactly_one(self) -> "Target":
        if (self.fpr is None) == (self.fdr is None):
            raise ValueError("give exactly one of fpr and fdr, such as {fpr: 0.01}")
        return self

    @property
    def level(self) -> float:
        """alpha, whichever it is."""
        return self.fpr if self.fpr is not None else self.fdr or 0.0


class Calibration(Section):
    """The calibration part of the trusted set, and the target.

    `screen`: trusted samples that do not belong leave both parts (see `madcore.scoring.screening`), instead of being reported only; false is left
    out of what is written.
    """

    fraction: Share = 0.3
    seed: Seed = 0
    target: Target = Target(fpr=0.01)
    tail: Literal["conformal"] = "conformal"
    screen: Annotated[bool, Field(exclude_if=lambda screen: not screen)] = False


class RunSection(Section):
    """How to run; nothing here changes a score."""

    rows_per_task: Annotated[int, Field(ge=1, le=1 << 20)] = 8192
    batch_size: Annotated[int, Field(ge=1, le=65536)] = 256
    workers: Annotated[int, Field(ge=1, le=100_000)] = 2
    gpus_per_worker: Annotated[float, Field(ge=0)] = 0
    memory_per_worker: ByteSize = ByteSize(4 << 30)
    on_nonfinite: Literal["flag", "fail"] = "flag"


class ModelConfig(Section):
    """One model with everything that concerns it, sections of the top level merged in, `auto` resolved."""

    name: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
    architecture: Place | None = None
    kwargs: Annotated[dict[str, JsonValue], Field(default_factory=dict)]
    weights: Place | None = None
    huggingface: Place | None = None
    task: Task
    data: Data
    estimator: Annotated[Estimator | LossTrace, Field(discriminator="kind"), _of_kind("gradient")] = Estimator()
    curvature: CurvatureSection = CurvatureSection()
    score: ScoreSection = ScoreSection()
    calibration: Calibration = Calibration()

    @field_validator("name")
    @classmethod
    def _allowed_name(cls, name: str) -> str:
        if name.lower() in RESERVED_NAMES:  # some disks know no difference between Runs and runs
            raise ValueError(f"{name!r} is taken by the root's own files; choose another")
        return name

    @property
    def described(self) -> str:
        """The model's code as errors name it."""
        return (
            f"huggingface {self.huggingface}" if self.huggingface is not None else f"architecture {self.architecture}"
        )

    @property
    def traced(self) -> LossTrace | None:
        """The estimator, if it is `loss_trace`."""
        return self.estimator if isinstance(self.estimator, LossTrace) else None

    @property
    def screened(self) -> bool:
        """Whether the trusted set is screened: it needs predicted classes, and rows that are gradients."""
        return not self.is_text and self.traced is None

    @property
    def measurement(self) -> str:
        """What is measured of logits, `auto` resolved by `AuditConfig`; of traces, losses."""
        return (
            ("completion_nll" if self.is_text else "margin")
            if isinstance(self.estimator, LossTrace)
            else self.estimator.measurement
        )

    @property
    def gradient(self) -> Estimator:
        """The estimator, where it is `gradient`.

        Raises:
            TypeError: it is another one.
        """
        if isinstance(self.estimator, LossTrace):
            raise TypeError("the estimator is loss_trace, which has no gradients")
        return self.estimator

    @property
    def is_text(self) -> bool:
        """Whether its samples are token sequences, and its outputs have no classes."""
        return self.task == "causal_lm"
