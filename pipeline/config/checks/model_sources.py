"""How a config may name a model: the keys of each kind of source, and which of them go together."""

from collections.abc import Iterable

from pipeline.config.checks.complaints import place_of
from pipeline.config.schema import ModelConfig
from pipeline.config.sections import Raw

KINDS: dict[str, tuple[str, ...]] = {
    "architecture": ("weights", "kwargs"),
    "huggingface": ("adapter",),
    "timm": ("weights", "kwargs"),
    "torchvision": ("weights", "kwargs"),
}
KEYS = tuple(dict.fromkeys([*KINDS, *(key for own in KINDS.values() for key in own)]))


def odd_sources(index: int, model: ModelConfig, raw: Raw) -> list[str]:
    """Complaints about a model that is named in no way, in several, or by keys that do not go together."""
    where = place_of(("models", index), raw)
    given = [key for key in KEYS if getattr(model, key) not in (None, {})]
    kinds = [kind for kind in KINDS if kind in given]
    if len(kinds) != 1:
        return [_unnamed(where, model, given) if not kinds else _named_twice(where, given)]
    (kind,) = kinds
    stray = [key for key in given if key not in (kind, *KINDS[kind])]
    if stray:
        belongs = ", ".join(other for other in KINDS if stray[0] in KINDS[other])
        return [f"{where}: {stray[0]} does not go with {kind}; it belongs to {belongs}"]
    missing = [key for key in KINDS[kind] if key == "weights" and key not in given]
    if model.is_text and kind != "huggingface" and not missing:
        return [
            f"{where}: give huggingface, the folder of a causal language model; {kind} and weights are for the task "
            f"classification, not {model.task}"
        ]
    if model.control is not None and model.adapter is not None:
        return [
            f"{where}.control: untrained is of a whole model, and an adapter that is not trained changes nothing; give "
            "it to the base, as a model of its own"
        ]
    return [f"{where}.{key}: required, but not given" for key in missing]


def _unnamed(where: str, model: ModelConfig, given: list[str]) -> str:
    if given:
        return f"{where}.architecture: required, but not given"
    if model.is_text:
        return f"{where}: give huggingface, the folder of a causal language model"
    return f"{where}: give architecture and weights, or {_either(kind for kind in KINDS if kind != 'architecture')}"


def _named_twice(where: str, given: list[str]) -> str:
    return f"{where}: name the model in one way, by {_either(KINDS)} (here: {', '.join(given)})"


def _either(kinds: Iterable[str]) -> str:
    *most, last = kinds
    return f"{', '.join(most)} or {last}" if most else last
