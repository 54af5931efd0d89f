"""What pydantic found wrong with a config, as sentences that name the key, the value and the nearest valid key."""

from collections.abc import Sequence
from difflib import get_close_matches

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from infra.storage.urls import masked
from pipeline.config.schema import KINDS_IN_PLACES
from pipeline.config.sections import MODEL_SECTIONS, Raw, sections_in

INTERNAL = ("folder", "untrained")  # noted when a file is read, not written by its author


COMPLAINTS_SHOWN, LONGEST_SHOWN = 100, 150


PHRASES = {
    "missing": "required, but not given",
    "model_type": "expected a mapping",
    "dict_type": "expected a mapping",
    "tuple_type": "expected a list",
    "union_tag_invalid": "kind must be one of {expected_tags}",
}


def complaints(error: ValidationError, raw: Raw, config: type[BaseModel]) -> str:
    """All that is wrong with `raw`, parsed as `config`, as one line; each complaint once, COMPLAINTS_SHOWN at most."""
    lines: list[str] = []
    for detail in error.errors(include_url=False):
        line = _complaint(detail, raw, config)
        if line not in lines:
            lines.append(line)
    more = len(lines) - COMPLAINTS_SHOWN
    rest = [f"and {more:,} more complaints"] if more > 0 else []
    return "; ".join([*lines[:COMPLAINTS_SHOWN], *rest])


def unknown_keys(raw: Raw, config: type[BaseModel]) -> list[str]:
    """A complaint about each key of the whole mapping that `config` does not have, with the nearest valid one."""
    valid = _valid_keys((), config)
    return [f"{key}: {_remedy(key, valid)}" for key in raw if key not in valid]


def _complaint(detail: ErrorDetails, raw: Raw, config: type[BaseModel]) -> str:
    where, kind, given = place_of(detail["loc"], raw), detail["type"], detail.get("input")
    if kind == "extra_forbidden":
        key, place = str(detail["loc"][-1]), detail["loc"][:-1]
        return f"{where}: {_remedy(key, _valid_keys(place, config), _elsewhere(key, _options(place, config)))}"
    if kind in PHRASES:
        got = "" if kind == "missing" else f", got {_shown(given)}"
        return f"{where}: {PHRASES[kind].format(**detail.get('ctx', {}))}{got}"
    message = detail["msg"].removeprefix("Value error, ")
    shown = "" if isinstance(given, dict | list) or kind == "value_error" else f", got {_shown(given)}"
    return f"{where}: {message[0].lower()}{message[1:]}{shown}"


def _shown(value: object) -> str:
    """A value as the user may recognise it, with secrets in URLs masked."""
    try:
        text = masked(repr(value))
    except ValueError:  # Python refuses to write a whole number with thousands of digits
        text = f"a value of type {type(value).__name__} that is too large to show"
    return text if len(text) < LONGEST_SHOWN else f"{text[: LONGEST_SHOWN - 3]}..."


def _remedy(key: object, valid: Sequence[str], elsewhere: str | None = None) -> str:
    if elsewhere:
        return f"unknown key; {elsewhere}"
    near = get_close_matches(str(key), valid, n=1)
    return "unknown key; " + (f"did you mean {near[0]!r}?" if near else f"valid keys: {', '.join(valid)}")


def _elsewhere(key: str, options: Sequence[type[BaseModel]]) -> str | None:
    """Where a key would be right: in a section below, or for another kind."""
    for name, field in options[0].model_fields.items():
        for section in sections_in(field.annotation):
            if key in section.model_fields and key != "kind":
                return f"did you mean '{name}.{key}'?"
    for section in options[1:]:
        if key in section.model_fields:
            return f"{key!r} belongs to kind: {_kind(section)}"
    return None


def place_of(loc: Sequence[int | str], raw: Raw) -> str:
    """A place as the user wrote it: sections that a model inherits are named at the top level."""
    if len(loc) < 2 or loc[0] != "models":
        return ".".join(str(part) for part in loc)
    models = raw["models"]
    model = models[int(loc[1])] if isinstance(models, list) else None
    given_in_model = isinstance(model, dict) and len(loc) > 2 and loc[2] in model
    inherited = len(loc) > 2 and loc[2] in MODEL_SECTIONS and loc[2] in raw and not given_in_model
    rest = [str(part) for part in loc[2:] if part not in KINDS_IN_PLACES]
    name = model.get("name", loc[1]) if isinstance(model, dict) else loc[1]
    shown = name if isinstance(name, str) and name.isprintable() and len(name) < LONGEST_SHOWN else _shown(name)
    return ".".join(rest if inherited else ["models", shown, *rest])


def _options(loc: Sequence[int | str], config: type[BaseModel]) -> list[type[BaseModel]]:
    """The sections that a place can hold, the one that it does hold first.

    A place names the kind of a section that has several.
    """
    options: list[type[BaseModel]] = [config]
    for part in loc:
        of_kind = [section for section in options if _kind(section) == part]
        if of_kind:
            options = [*of_kind, *(section for section in options if section not in of_kind)]
        elif isinstance(part, str) and part in options[0].model_fields:
            options = sections_in(options[0].model_fields[part].annotation) or options
    return options


def _kind(section: type[BaseModel]) -> object:
    """The kind that a section has unless it is given; None for a section without kinds."""
    return section.model_fields["kind"].default if "kind" in section.model_fields else None


def _valid_keys(loc: Sequence[int | str], config: type[BaseModel]) -> list[str]:
    """The keys of the section at a place."""
    options = _options(loc, config)
    if options[0] is config:
        return [key for key in config.model_fields if key not in INTERNAL] + list(MODEL_SECTIONS)
    return [key for key in options[0].model_fields if key not in INTERNAL]
