"""What the rows of a plan cover of its model, as numbers, and what little of it means for a report."""

import math
from collections.abc import Mapping

from madcore.coverage.shares import ParameterShare, Shares
from madcore.extraction.selection import is_chosen
from pipeline.planning.plan import ModelPlan

LITTLE, TOO_LITTLE = 0.9, 0.5  # shares under which a report has a warning, and no verdict

NAMED = 3


def shares_of(plan: ModelPlan) -> Shares | None:
    """The shares that the layers in use hold of the modules that `estimator.layers` selects.

    None of loss traces, and where an earlier version of mad planned the rows and did not measure them.
    """
    parameters = _parameters(plan)
    known = bool(parameters) and all(name in parameters for name in plan.layout.names)
    return Shares.of(parameters, plan.layout.names) if known else None


def coverage_warning(plan: ModelPlan) -> str | None:
    """What a reader has to know where rows cover little of the parameters or of the gradient; None where they do."""
    shares = shares_of(plan)
    if shares is None or min(shares.of_parameters, _known(shares.of_gradient)) >= LITTLE:
        return None
    parameters = _parameters(plan)
    left = {name: one for name, one in parameters.items() if name not in plan.layout.names}
    largest = sorted(left, key=lambda name: max(left[name].gradient, _part(left[name], parameters)), reverse=True)
    named = ", ".join(
        f"{name} ({percent(_part(left[name], parameters))} and {percent(left[name].gradient)})"
        for name in largest[:NAMED]
    )
    return (
        f"rows cover {percent(shares.of_parameters)} of the parameters and {percent(shares.of_gradient)} of the "
        f"gradient's squared norm in the modules that estimator.layers selects; most of the rest: {named}{remedy(plan)}"
    )


def remedy(plan: ModelPlan) -> str:
    """What makes rows cover more, as the end of a sentence; nothing where the config asks for all already."""
    if plan.config.gradient.parameters == "all":
        return ""
    return "; estimator.parameters: all takes biases, norms, embeddings and tables too"


def share_without_verdict(plan: ModelPlan) -> float | None:
    """The share of the gradient that rows cover, where it is too little for a verdict; else None."""
    shares = shares_of(plan)
    return shares.of_gradient if shares is not None and _known(shares.of_gradient) < TOO_LITTLE else None


def percent(share: float | None) -> str:
    """A share in percent, rounded down, so that one under a limit never looks as if it were at it."""
    return "an unknown part" if share is None else f"{math.floor(1000 * share) / 10:g} %"


def _known(share: float | None) -> float:
    return 1.0 if share is None else share


def _part(one: ParameterShare, parameters: Mapping[str, ParameterShare]) -> float:
    return one.numbers / sum(other.numbers for other in parameters.values())


def _parameters(plan: ModelPlan) -> Mapping[str, ParameterShare]:
    """What is known of each parameter of the modules that the config's patterns choose: all of the recipe's, or fewer.

    A config whose rows are stored can choose fewer layers than were stored.
    """
    recipe = plan.recipe
    if plan.config.traced is not None or recipe.patterns == plan.config.gradient.layers:
        return recipe.shares
    patterns = plan.config.gradient.layers
    return {name: one for name, one in recipe.shares.items() if is_chosen(name.rpartition(".")[0], patterns)}
