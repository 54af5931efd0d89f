"""The sections `score` and `calibration`: the anomaly score, and what decides which scores are flagged."""

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BeforeValidator, Field, JsonValue, model_validator

from pipeline.config.sections import Section, Seed, Share

if TYPE_CHECKING:
    from madcore.scoring.coupling import LayersForm, ScoreKind


CLASS_MEANS = ("prediction_coupling", "class_coupling")


def _whole_or_auto(value: JsonValue) -> JsonValue:
    if value == "auto" or (isinstance(value, int) and not isinstance(value, bool) and value >= 1):
        return value
    raise ValueError(f"q must be auto or a whole number from 1 on, got {value!r}")


class ScoreSection(Section):
    """The anomaly score: larger is more anomalous.

    At their defaults, `form` and `debiased` are left out of what is written and of keys.
    """

    kind: Literal[
        "auto", "prediction_coupling", "class_coupling", "mean_coupling", "top_coupling", "concordance", "leverage"
    ] = "auto"
    """What a sample's row is compared with. `prediction_coupling` (`auto` for classifiers): the mean of the references
    of its predicted class. `class_coupling`: that of the class that fits best. `mean_coupling`: the mean of all
    references. `top_coupling` (`auto` for language models): the nearest references. `leverage`: nothing; the size of
    the row itself, after whitening. `concordance`: for loss traces only, a correlation that also demands equal scale
    and level."""

    form: Annotated[Literal["auto", "class", "mean"], Field(exclude_if=lambda form: form == "auto")] = "auto"
    """For `concordance`: with the class that fits best (`class`, `auto` for classifiers), or with all references
    (`mean`, `auto` for language models)."""

    layers: Literal["auto", "concatenated", "apart"] = "auto"
    """`concatenated` (`auto`): the layers of a row count by their size. `apart`: each layer has unit norm, and all
    count the same."""

    q: Annotated[int | Literal["auto"], BeforeValidator(_whole_or_auto)] = "auto"
    """For `top_coupling`: how many of the nearest references count. `auto` is a twentieth of the reference part, at
    most 20."""

    debiased: Annotated[bool, Field(exclude_if=lambda debiased: not debiased)] = False
    """For scores of class means: divide each mean by the root of how much the class's rows agree among themselves,
    because a class whose rows agree less is expected to explain less."""

    @property
    def nearest(self) -> int | None:
        """The q of `top_coupling`; None where it follows from the size of the reference part."""
        return None if self.q == "auto" else self.q

    @property
    def resolved(self) -> 'ScoreKind | Literal["concordance"]':
        """The kind; `auto` is resolved when a config is parsed.

        Raises:
            ValueError: it is still `auto`.
        """
        if self.kind == "auto":
            raise ValueError("the score is still auto: parse the config with AuditConfig.parse or load")
        return self.kind

    @property
    def layers_form(self) -> "LayersForm":
        """How layers are joined, with `auto` resolved."""
        return "concatenated" if self.layers == "auto" else self.layers


class Target(Section):
    """What flags are allowed to cost: exactly one of a false positive rate and a false discovery rate."""

    fpr: Share | None = None
    """False positive rate: the share of normal samples that may be flagged. A sample is flagged where its p-value is at
    most this. The default of the section is `{fpr: 0.01}`, which needs at least 99 calibration samples to flag
    anything."""

    fdr: Share | None = None
    """False discovery rate: the share of flagged samples that may be normal. A sample is flagged where its q-value
    (Benjamini-Hochberg, per model) is at most this."""

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
    """The calibration part of the trusted set, which turns scores into p-values, and the target of the flags."""

    fraction: Share = 0.3
    """Share of the readable trusted samples that becomes the calibration part. A larger one gives finer p-values and
    fewer references."""

    seed: Seed = 0
    """Seed of the split, which depends on it and on the samples' ids alone."""

    target: Target = Target(fpr=0.01)
    """What flags are allowed to cost."""

    tail: Literal["conformal"] = "conformal"
    """How p-values are computed: `conformal`, from the ranks of calibration scores, which assumes nothing about their
    distribution."""

    screen: Annotated[bool, Field(exclude_if=lambda screen: not screen)] = False
    """For classifiers with the estimator `gradient`, whose trusted sets are always screened for a second mode in a
    class (`madcore.scoring.screening`): take suspects out of the reference and the calibration part, instead of warning
    only. At false it is left out of what is written and of keys."""
