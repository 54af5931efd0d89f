"""The sections of a config that say how a sample becomes a row."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from pipeline.config.sections import Paths, Section, Seed

FEWEST_DRAWS = 8


class ProjectionSection(Section):
    """Two-sided random projection of each layer's gradient; what it leaves of a layer is hashed to `sketch` numbers where it is more.

    A `sketch` that is not given is left out of what is written and of keys, so that rows stored before there was one keep their keys.
    """

    kind: Literal["rademacher", "gaussian"] = "rademacher"
    rank: Annotated[int, Field(ge=1, le=1024)] = 16
    seed: Seed = 0
    sketch: Annotated[int | None, Field(ge=1, le=1 << 20, exclude_if=lambda size: size is None)] = None


class Estimator(Section):
    """How a sample becomes a row."""

    kind: Literal["gradient"] = "gradient"
    measurement: Literal["auto", "margin", "token_margin", "completion_nll"] = "auto"
    layers: Paths = ("*",)
    parameters: Literal["matrices", "all"] = "matrices"
    projection: ProjectionSection = ProjectionSection()
    rows_dtype: Literal["float16", "float32"] = "float16"
    precision: Literal["float32", "bfloat16", "float16"] = "float32"


class LossTrace(Section):
    """How a sample becomes a row of the paper's estimator: its losses under weights sampled around the trained ones (see `madcore.sampling`).

    `sampling`: files of clean samples, labelled where the task has classes, none of them trusted. Of `draws` of each chain, the first `burn_in`
    are dropped, and of the others every `thin`-th is kept.
    """

    kind: Literal["loss_trace"] = "loss_trace"
    sampling: Paths
    preconditioner: Literal["rmsprop", "none"] = "rmsprop"
    chains: Annotated[int, Field(ge=1, le=1000)] = 1
    draws: Annotated[int, Field(ge=2, le=1_000_000)] = 2000
    burn_in: Annotated[int, Field(ge=0)] = 250
    thin: Annotated[int, Field(ge=1)] = 1
    gamma: Annotated[float, Field(ge=0)] = 10_000.0
    n_beta: Annotated[float, Field(ge=0)] = 100.0
    step: Annotated[float, Field(gt=0)] = 1e-6
    batch: Annotated[int, Field(ge=1, le=65536)] = 256
    alpha: Annotated[float, Field(ge=0, lt=1)] = 0.99
    eps_rms: Annotated[float, Field(gt=0)] = 0.1
    seed: Seed = 0

    @model_validator(mode="after")
    def _enough_draws(self) -> "LossTrace":
        if len(self.kept) < FEWEST_DRAWS:
            raise ValueError(
                f"of {self.draws:,} draws, {len(self.kept)} are kept after a burn_in of {self.burn_in:,}, thinned by {self.thin:,}; a trace needs "
                f"{FEWEST_DRAWS}: raise draws, or lower burn_in or thin"
            )
        return self

    @property
    def kept(self) -> range:
        """Which draws of a chain are kept, the first one 0."""
        return range(self.burn_in, self.draws, self.thin)
