"""The section `curvature`: the matrix that rows are whitened by."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from pipeline.config.sections import Section, Seed, default_kind

CurvatureKind = Literal["identity", "block_moment", "ggn", "fisher", "kfac", "ekfac"]


FACTORED = ("kfac", "ekfac")


class RelativeMean(Section):
    """Damping relative to the curvature, the default: lambda = factor x the layer's mean eigenvalue."""

    kind: Literal["relative_mean"] = "relative_mean"
    """`relative_mean`, or `absolute`, whose key is `value`."""

    factor: Annotated[float, Field(gt=0)] = 1.0
    """Multiple of the layer's mean eigenvalue. At 1, the damping equals the average curvature of the layer, whatever
    its scale."""


class Absolute(Section):
    """The same damping for every layer: lambda = value."""

    kind: Literal["absolute"] = "absolute"
    """`absolute`, to choose this damping."""

    value: Annotated[float, Field(gt=0)]
    """What is added to the curvature of each layer, in the curvature's own unit."""


class CurvatureSection(Section):
    """The curvature that rows are whitened by, and its damping.

    `mad rescore` computes another one from stored rows.
    """

    kind: CurvatureKind = "block_moment"
    """`block_moment`: second moments of each layer's rows, from stored rows alone. `identity`: no whitening. `fisher`:
    of the training loss, with labels sampled from the model's predictions; one more pass over the samples that it is
    computed from. `ggn` (classifiers, without autocast): the Gauss-Newton matrix; as many backward passes over these
    samples as there are classes. `kfac` and `ekfac`: Kronecker-factored, one more pass; the two share what it
    stores."""

    seed: Annotated[Seed, Field(exclude_if=lambda seed: seed == 0)] = 0
    """Seed of the labels that `fisher` samples; only with that kind. At 0 it is left out of what is written and of
    keys."""

    damping: Annotated[RelativeMean | Absolute, Field(discriminator="kind"), default_kind(RelativeMean)] = (
        RelativeMean()
    )
    """What is added to the eigenvalues of each layer's curvature before its inverse is taken."""

    transductive: bool = False
    """Compute the curvature from the audited samples and the calibration part as well, instead of the reference part
    alone. Valid for that audit, but a sample's score then depends on the other audited samples, also on an attacker's
    share of them."""

    @model_validator(mode="after")
    def _something_to_fit(self) -> "CurvatureSection":
        if self.transductive and self.kind == "identity":
            raise ValueError(
                "transductive says which samples the curvature is computed from, and identity is computed from none; "
                "choose one of them"
            )
        if self.seed and self.kind != "fisher":
            raise ValueError(f"seed is that of the labels that kind: fisher samples; {self.kind} samples none")
        return self
