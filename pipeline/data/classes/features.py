"""What a data set says of its own classes: the features that Hugging Face datasets keep in a schema's metadata."""

import json
from collections.abc import Mapping, Sequence

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError

from pipeline.config.samples import Columns

METADATA = b"huggingface"


class _Info(BaseModel):
    model_config = ConfigDict(extra="ignore")
    features: dict[str, JsonValue]


class _Described(BaseModel):
    model_config = ConfigDict(extra="ignore")
    info: _Info


class _ClassLabel(BaseModel):
    model_config = ConfigDict(extra="ignore")
    names: tuple[str, ...]


def class_features(
    schema: pa.Schema, columns: Columns, roles: Sequence[str]
) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """By role of truth, the names of the classes that a column's values stand for, where the schema says."""
    known = names_in((schema.metadata or {}).get(METADATA, b"{}"))
    found = ((role, getattr(columns, role)) for role in roles if role != "anomalous")
    return tuple((role, known[name]) for role, name in found if name in known)


def names_in(document: bytes | str) -> Mapping[str, tuple[str, ...]]:
    """The names of classes by column, as the document of a data set has them; none where it is of another form."""
    try:
        features = _Described.model_validate(json.loads(document)).info.features
    except (ValueError, ValidationError, RecursionError):
        return {}
    labels = {name: one for name, one in features.items() if isinstance(one, dict) and one.get("_type") == "ClassLabel"}
    found = dict[str, tuple[str, ...]]()
    for name, one in labels.items():
        try:
            found[name] = _ClassLabel.model_validate(one).names
        except ValidationError:
            continue
    return found
