"""Which outputs are measured: by their numbers, whatever the config calls them by."""

from collections.abc import Sequence

from pipeline.config.schema import ModelConfig
from pipeline.errors import SourceError


def by_number(model: ModelConfig, own: Sequence[str]) -> ModelConfig:
    """A model whose measured outputs are numbers; `own` are the names of its outputs, or else `data.labels`.

    Raises:
        SourceError: an output is called by a name that none has.
    """
    if model.traced is not None or all(isinstance(one, int) for one in model.gradient.measured):
        return model
    names = tuple(own) or model.data.labels
    unknown = next((one for one in model.gradient.measured if isinstance(one, str) and one not in names), None)
    if unknown is not None:
        there = f"outputs: {', '.join(names)}" if names else "nobody names the outputs; give their numbers, from 0"
        raise SourceError(f"estimator.measured: there is no output {unknown!r}; {there}")
    numbers = tuple(names.index(one) if isinstance(one, str) else one for one in model.gradient.measured)
    return model.model_copy(update={"estimator": model.gradient.model_copy(update={"measured": numbers})})
