"""Which of a model's several outputs is the one that counts, by its number or its name."""

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from pipeline.config.schema import ModelConfig
from pipeline.errors import SourceError

NAMED = 8  # outputs, in a message


def choose_output(module: nn.Module, model: ModelConfig) -> None:
    """Make a model return that one alone, where its config names one; the names of its modules stay."""
    chosen = model.output
    if chosen is not None:
        module.register_forward_hook(lambda _module, _inputs, outputs: _chosen(outputs, chosen, model.described))


def _chosen(outputs: object, chosen: str | int, described: str) -> Tensor:
    """The output of this number or name.

    Raises:
        SourceError: there is none, or it is no tensor.
    """
    found = _at(outputs, chosen)
    if isinstance(found, Tensor):
        return found
    what = "which it has not" if found is None else f"which is of type {type(found).__name__}, not a tensor"
    raise SourceError(f"{described}: the config takes its output {chosen!r}, {what}; {_offered(outputs)}")


def _at(outputs: object, chosen: str | int) -> object:
    if isinstance(chosen, int):
        places = outputs if isinstance(outputs, Sequence) else ()
        return places[chosen] if -len(places) <= chosen < len(places) else None
    return outputs.get(chosen) if isinstance(outputs, Mapping) else getattr(outputs, chosen, None)


def _offered(outputs: object) -> str:
    """What the model returned, by what `output` may be."""
    if isinstance(outputs, Mapping):
        return f"it returns {', '.join(map(repr, list(outputs)[:NAMED]))}"
    if isinstance(outputs, Sequence):
        return f"it returns {len(outputs)} outputs, 0 to {len(outputs) - 1}"
    return f"it returns an object of type {type(outputs).__name__}"
