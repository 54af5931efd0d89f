"""One model of a config with all its sections, and what each task allows in them."""

import operator
from typing import Annotated, Literal

from pydantic import BaseModel, Field, JsonValue, StringConstraints, field_validator

from pipeline.config.curvature import CurvatureSection
from pipeline.config.estimators import Estimator, LossTrace
from pipeline.config.samples import Data
from pipeline.config.scoring import Calibration, ScoreSection
from pipeline.config.sections import Place, Section, default_kind, sections_in
from pipeline.config.tasks import TASKS, Task, TaskFacts

RESERVED_NAMES = ("runs", "report", "mad.json", "index")


PROBABILITIES = "probabilities"


Samples = Literal["images", "sequences", "texts", "tensors"]


# A key that configs had not before: where it is not given, a recorded config is without it.
NewName = Annotated[
    Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,199}$")] | None,
    Field(exclude_if=lambda value: value is None),
]
NewPlace = Annotated[Place | None, Field(exclude_if=lambda value: value is None)]


class ModelConfig(Section):
    """One model: its code, its weights, and its sections.

    A model's sections merge over those of the top level, key by key.
    """

    name: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
    """Name of the model, unique in the config whatever its case: letters, digits, `.`, `_` and `-`, at most 100,
    beginning with a letter or digit. Not `runs`, `report`, `index` or `mad.json`, which are names in the root."""

    architecture: Place | None = None
    """The model's code: `file.py:function` or `package.module:function`, which returns a `torch.nn.Module`. Together
    with `weights`, instead of `huggingface`."""

    kwargs: Annotated[dict[str, JsonValue], Field(default_factory=dict)]
    """Keyword arguments of the architecture's function."""

    weights: Place | None = None
    """File of the architecture's weights: safetensors, or a state dict that torch.save wrote, alone or in an entry of a
    checkpoint. Full pickles are refused, because loading one runs whatever code it holds."""

    huggingface: Place | None = None
    """A model of transformers, instead of `architecture` and `weights`: a Hugging Face folder, also in a store
    (`s3://zoo/bert`), or the id of a model on the hub, safetensors only. Its `config.json` says whether it is a causal
    language model or a classifier. No code of the model's own is run."""

    adapter: NewPlace = None
    """A folder of PEFT with a LoRA adapter, on the base that `huggingface` names, whatever base the adapter names
    itself; safetensors only. Its own matrices are the default of `estimator.layers`."""

    timm: NewName = None
    """Name of a model of timm, such as `resnet50`, with `weights` and perhaps `kwargs`; instead of `architecture`. timm
    says how images become inputs, unless `data.preprocess` does."""

    torchvision: NewName = None
    """Name of a model of torchvision, such as `resnet50`, with `weights` and perhaps `kwargs`; instead of
    `architecture`. The transforms of its default weights say how images become inputs, unless `data.preprocess`
    does."""

    output: Annotated[
        Annotated[int, Field(strict=True)] | Annotated[str, StringConstraints(min_length=1, max_length=200)] | None,
        Field(exclude_if=lambda value: value is None),
    ] = None
    """Which of several outputs counts, where the model returns a dict, an object or a tuple: its name or its number,
    from 0. `null` takes the only one, or the attribute `logits`."""

    outputs: Literal["logits", "probabilities"] | None = None
    """What a classifier returns. Of `probabilities`, which sum to 1, or are one for each label, the measurement is
    log(1 - p) - log p of the predicted class or label. `null` takes outputs for logits, and refuses those that look
    like probabilities; `logits` takes them as they are."""

    control: Annotated[Literal["untrained"] | None, Field(exclude_if=lambda control: control is None)] = None
    """`untrained` audits the same samples on the same architecture with random weights too, as a model of its own named
    `<name>.untrained`. Its AUROC and its share of flagged samples stand beside the model's: what it also finds is
    unusual in the samples, and shows no mechanism of the model."""

    untrained: Annotated[bool, Field(exclude_if=operator.not_)] = False
    """Not a key of the file: whether this is such a control, whose weights are random."""

    task: Task
    """`classification`, `causal_lm`, a causal language model, `binary`, a classification by one output,
    `multi_label`, a decision about each of several labels, or `regression`. Required here or at the top level."""

    data: Data
    """Where the samples are, and how to read them. Required here or at the top level."""

    estimator: Annotated[Estimator | LossTrace, Field(discriminator="kind"), default_kind(Estimator)] = Estimator()
    """How a sample becomes a row."""

    curvature: CurvatureSection = CurvatureSection()
    """The curvature that rows are whitened by. Left out with the estimator `loss_trace`, which compares traces as they
    are."""

    score: ScoreSection = ScoreSection()
    """The anomaly score."""

    calibration: Calibration = Calibration()
    """The calibration part of the trusted set, and the target of the flags."""

    @field_validator("name")
    @classmethod
    def _allowed_name(cls, name: str) -> str:
        if name.lower() in RESERVED_NAMES:  # some disks know no difference between Runs and runs
            raise ValueError(f"{name!r} is taken by the root's own files; choose another")
        return name

    @property
    def control_name(self) -> str:
        """The name of the model that is its control."""
        return f"{self.name}.untrained"

    @property
    def described(self) -> str:
        """The model's code as errors name it."""
        if self.adapter is not None:
            return f"adapter {self.adapter} on huggingface {self.huggingface}"
        if self.huggingface is not None:
            return f"huggingface {self.huggingface}"
        library = next((key for key in ("timm", "torchvision") if getattr(self, key) is not None), None)
        return f"architecture {self.architecture}" if library is None else f"{library} {getattr(self, library)}"

    @property
    def facts(self) -> TaskFacts:
        """What its task allows."""
        return TASKS[self.task]

    @property
    def is_text(self) -> bool:
        """Whether its samples are token sequences, and its outputs are logits of their tokens."""
        return self.task == "causal_lm"

    @property
    def samples(self) -> Samples:
        """What its samples are: texts of a language model, sequences to classify, tensors of columns, or images."""
        if self.is_text:
            return "texts"
        if self.data.columns.of_sequences:
            return "sequences"
        return "images" if self.data.columns.inputs is None else "tensors"

    @property
    def has_classes(self) -> bool:
        """Whether it predicts one of several classes."""
        return self.facts.has_classes

    @property
    def traced(self) -> LossTrace | None:
        """The estimator, if it is `loss_trace`."""
        return self.estimator if isinstance(self.estimator, LossTrace) else None

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
    def measurement(self) -> str:
        """What is measured of logits, `auto` resolved by `AuditConfig`; for traces, the loss."""
        if isinstance(self.estimator, LossTrace):
            return "completion_nll" if self.is_text else "margin"
        return self.estimator.measurement

    @property
    def screened(self) -> bool:
        """Whether the trusted set is screened: it needs predicted classes, and rows that are gradients."""
        return self.has_classes and self.traced is None


def default_kinds(section: type[BaseModel]) -> dict[str, str]:
    """The default kinds of all sections below one that have several kinds, by the section's name."""
    kinds: dict[str, str] = {}
    for name, field in section.model_fields.items():
        if isinstance(field.default, Section):
            own = getattr(field.default, "kind", None)
            kinds |= default_kinds(type(field.default)) | ({name: own} if own is not None else {})
    return kinds


def kinds_in_places(section: type[BaseModel]) -> list[str]:
    """The kinds that pydantic puts into the places of its complaints.

    They are those of sections that are told apart by their kind.
    """
    kinds: list[str] = []
    for field in section.model_fields.values():
        for option in sections_in(field.annotation):
            own = [option.model_fields["kind"].default] if field.discriminator else []
            kinds += [*own, *kinds_in_places(option)]
    return kinds


DEFAULT_KINDS = default_kinds(ModelConfig)


KINDS_IN_PLACES = frozenset(kinds_in_places(ModelConfig))
