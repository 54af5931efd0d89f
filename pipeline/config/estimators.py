"""The section `estimator`: how a sample becomes a row."""

import operator
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, JsonValue, model_validator

from pipeline.config.sections import Paths, Section, Seed

FEWEST_DRAWS = 8


def _as_list(value: JsonValue) -> JsonValue:
    return [value] if isinstance(value, int | str) else value


class ProjectionSection(Section):
    """The two-sided random projection of each layer's gradient, which turns millions of numbers into a short row.

    A change of any of these recomputes all rows. A `sketch` that is not given is left out of what is written and of
    keys, so that rows stored before there was one keep their keys.
    """

    kind: Literal["rademacher", "gaussian"] = "rademacher"
    """Distribution of the projection's entries: random signs (`rademacher`), or normal numbers (`gaussian`)."""

    rank: Annotated[int, Field(ge=1, le=1024)] = 16
    """Numbers that each side of a layer's gradient is projected to, so that a layer takes at most rank x rank numbers
    of a row. A side no larger than the rank is kept whole. Memory, storage and the cost of a block-moment curvature
    grow with it; lower ranks can be tried on stored rows with `mad sweep`."""

    seed: Seed = 0
    """Seed of the projection. It is the same on every worker and device."""

    sketch: Annotated[int | None, Field(ge=1, le=1 << 20, exclude_if=lambda size: size is None)] = None
    """At most this many numbers of a layer are kept: what the projection leaves beyond that is hashed to this many. By
    default nothing is hashed."""


class Estimator(Section):
    """The estimator `gradient`, the default: a row is the projected gradient of a measurement of the model's output.

    It costs one forward and one backward pass per sample.
    """

    kind: Literal["gradient"] = "gradient"
    """`gradient`, or `loss_trace`, the paper's own estimator, which has keys of its own."""

    measurement: Literal["auto", "margin", "token_margin", "completion_nll", "label_margin", "output"] = "auto"
    """The number whose gradient is taken. `auto` is `margin` for classifiers (of the predicted class over the others)
    and `token_margin` for causal language models (the same, over the tokens of the completion); `completion_nll` is the
    negative log-likelihood of the completion. For the task multi_label it is `label_margin`, the sum of the margins of
    the predicted labels, each over its absence; for regression `output`, the output itself, or the sum of several with
    random signs."""

    measured: Annotated[
        tuple[Annotated[int, Field(ge=0)] | str, ...], BeforeValidator(_as_list), Field(exclude_if=operator.not_)
    ] = ()
    """For the tasks multi_label and regression: the outputs that are measured, by their numbers from 0 or their names.
    By default, a sample's predicted labels, or all outputs."""

    layers: Paths = ("*",)
    """Layers whose parameters count: shell patterns over module names. A leading `!` excludes."""

    parameters: Literal["matrices", "all"] = "matrices"
    """`matrices`: everything that inputs are multiplied with: kernels and weight matrices of linear, convolution,
    attention, recurrent and bilinear layers, tied heads included, and of other modules, such as routed experts, each
    parameter with two axes or more that are longer than one, unless its shape (a first axis of one), its name or its
    module's class says that it is a token, a position, another table, a norm or a bias. `all`: these too."""

    projection: ProjectionSection = ProjectionSection()
    """How each layer's gradient is projected to the numbers of a row."""

    rows_dtype: Literal["float16", "float32"] = "float16"
    """Type of stored rows. `float16` has a float32 scale per row and layer, and takes half the storage."""

    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    """Precision of the forward pass. `bfloat16` and `float16` use autocast."""

    @property
    def measured_numbers(self) -> tuple[int, ...]:
        """The numbers of the outputs that are measured, once names have been looked up."""
        return tuple(one for one in self.measured if isinstance(one, int))


class LossTrace(Section):
    """The estimator `loss_trace`, the paper's own: a row is the losses of a sample under sampled weights.

    Weights are sampled around the trained ones by stochastic gradient Langevin dynamics (see `madcore.sampling`). It
    costs a forward pass per sample and kept draw. The defaults are the settings of arXiv 2604.18970 for CIFAR-10.
    """

    kind: Literal["loss_trace"] = "loss_trace"
    """`loss_trace`, to choose this estimator."""

    sampling: Paths
    """The sampling set: files of clean samples, labelled where the task has classes, none of them in the trusted set. A
    path, a glob or a list."""

    preconditioner: Literal["rmsprop", "none"] = "rmsprop"
    """Scales the steps of each weight by the size of its gradients (`rmsprop`), or not (`none`)."""

    chains: Annotated[int, Field(ge=1, le=1000)] = 1
    """Independent chains, which can run in parallel."""

    draws: Annotated[int, Field(ge=2, le=1_000_000)] = 2000
    """Draws (steps) of each chain."""

    burn_in: Annotated[int, Field(ge=0)] = 250
    """Draws at the beginning of each chain that are dropped, because the chain has not yet reached its stationary
    distribution."""

    thin: Annotated[int, Field(ge=1)] = 1
    """After the burn-in, every thin-th draw is kept. Higher values cost fewer forward passes per sample; consecutive
    draws are correlated anyway."""

    gamma: Annotated[float, Field(ge=0)] = 10_000.0
    """Strength of localisation: how strongly weights are pulled back to the trained ones."""

    n_beta: Annotated[float, Field(ge=0)] = 100.0
    """Weight of the sampling set's mean loss in the dynamics: the number of samples times the inverse temperature."""

    step: Annotated[float, Field(gt=0)] = 1e-6
    """Step size. A chain whose step is too large diverges, and is refused."""

    batch: Annotated[int, Field(ge=1, le=65536)] = 256
    """Samples of the sampling set in the minibatch of a step."""

    alpha: Annotated[float, Field(ge=0, lt=1)] = 0.99
    """Decay of the average of squared gradients in the `rmsprop` preconditioner."""

    eps_rms: Annotated[float, Field(gt=0)] = 0.1
    """Added to the root of that average before dividing by it, so that weights with tiny gradients take bounded
    steps."""

    seed: Seed = 0
    """Seed of minibatches and noise. A draw depends on nothing but the seed, the chain and its number."""

    @model_validator(mode="after")
    def _enough_draws(self) -> "LossTrace":
        if len(self.kept) < FEWEST_DRAWS:
            raise ValueError(
                f"of {self.draws:,} draws, {len(self.kept)} are kept after a burn_in of {self.burn_in:,}, thinned by "
                f"{self.thin:,}; a trace needs {FEWEST_DRAWS}: raise draws, or lower burn_in or thin"
            )
        return self

    @property
    def kept(self) -> range:
        """Which draws of a chain are kept, the first one 0."""
        return range(self.burn_in, self.draws, self.thin)
