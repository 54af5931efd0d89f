"""The reference of the config, from the models that parse it: every key, its default, its values, its description."""

from collections.abc import Iterator
from dataclasses import dataclass
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel, ByteSize
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from pipeline.config.audit_config import AuditConfig
from pipeline.config.checks.complaints import INTERNAL
from pipeline.config.sections import MODEL_SECTIONS, Section

BOUNDS = {Ge: "from", Gt: "above", Le: "to", Lt: "below"}


@dataclass(frozen=True)
class Key:
    """One key of the config, `place` its dotted path."""

    place: str
    default: str
    values: str
    description: str


@dataclass(frozen=True)
class ConfigSection:
    """The keys of one mapping, and what the mapping is for."""

    place: str
    summary: str
    keys: tuple[Key, ...]


def config_reference() -> str:
    """Markdown: a table for each mapping of the config."""
    return "\n".join(_rendered(section) for section in sections())


def sections() -> list[ConfigSection]:
    """All mappings of the config, the top level first."""
    return list(_walk(AuditConfig, ""))


def _walk(model: type[BaseModel], place: str) -> Iterator[ConfigSection]:
    own, nested = [], list[tuple[type[BaseModel], str]]()
    for name, field in model.model_fields.items():
        if name in INTERNAL:
            continue
        below = place_below(place, name)
        own.append(Key(below, _default(field), _values(field), (field.description or "").strip()))
        models = [one for one in _sections_in(field.annotation) if not issubclass(model, one)]  # the same keys again
        many = len(models) > 1
        where = f"{below}[]" if get_origin(field.annotation) is tuple else below
        nested += [(one, f"{where} (kind: {one.model_fields['kind'].default})" if many else where) for one in models]
    yield ConfigSection(place, _summary(model), tuple(own))
    for one, where in nested:
        yield from _walk(one, where)


def place_below(place: str, name: str) -> str:
    """The path of a key; a model's sections may stand at the top level too, which is how they are written."""
    plain = place.partition(" (")[0]
    if plain == "models[]" and name in MODEL_SECTIONS:
        return name
    return f"{plain}.{name}" if plain else name


def _sections_in(annotation: Any) -> list[type[BaseModel]]:
    """The mappings that a field's type is made of."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return [annotation]
    return [found for part in get_args(annotation) for found in _sections_in(part)]


def _default(field: FieldInfo) -> str:
    if field.default_factory is not None:
        return "`{}`"
    value = field.default
    if value is PydanticUndefined:
        return "required"
    if isinstance(value, ByteSize):
        return f"`{value.human_readable().replace('.0', '')}`"
    if isinstance(value, BaseModel):
        return "see below"
    return f"`{_yaml(value)}`"


def _yaml(value: object) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return f"[{', '.join(_yaml(one) for one in value)}]"
    return '"*"' if value == "*" else f"{value:g}" if isinstance(value, float) else str(value)


def _values(field: FieldInfo) -> str:
    """The values that a key takes, where they can be listed or bounded."""
    literals = [f"`{_yaml(value)}`" for value in _literals(field.annotation)]
    bounds = [_bound(one) for one in (*field.metadata, *_metadata(field.annotation))]
    number = ["or a number"] if literals and int in get_args(field.annotation) else []
    return ", ".join([*literals, *number, *filter(None, bounds)])


def _bound(one: object) -> str:
    for kind, word in BOUNDS.items():
        if isinstance(one, kind):
            return f"{word} {_number(getattr(one, kind.__name__.lower()))}"
    return ""


def _number(value: float) -> str:
    if isinstance(value, int) and value > 1 << 20:
        return f"2^{value.bit_length() - 1}"
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"


def _metadata(annotation: Any) -> tuple[object, ...]:
    if get_origin(annotation) is Annotated:
        own = [part for one in annotation.__metadata__ for part in getattr(one, "metadata", [one])]
        return (*own, *_metadata(annotation.__origin__))
    if get_origin(annotation) in (Union, UnionType):
        return tuple(one for part in get_args(annotation) for one in _metadata(part))
    return ()


def _literals(annotation: Any) -> tuple[object, ...]:
    if get_origin(annotation) is Literal:
        return get_args(annotation)
    if annotation is bool:
        return (True, False)
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return ()
    return tuple(value for part in get_args(annotation) for value in _literals(part))


def _summary(model: type[BaseModel]) -> str:
    return " ".join((model.__doc__ or "").strip().partition("\n\n")[0].split())


def _rendered(section: ConfigSection) -> str:
    title = f"`{section.place}`" if section.place else "Top level"
    lines = [f"## {title}", "", section.summary, "", "| key | default | values | what it means |", "|---|---|---|---|"]
    for key in section.keys:
        cells = (f"`{key.place.rpartition('.')[2]}`", key.default, key.values, " ".join(key.description.split()))
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join([*lines, ""])
