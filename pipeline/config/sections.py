"""What every section of a config is made of: the base class, and the types of values that several sections share."""

from typing import Annotated, get_args

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, JsonValue, StringConstraints

from infra.errors import StorageError
from infra.storage.urls import path_on_disk, refuse_credentials, refuse_encoded

MODEL_SECTIONS = ("task", "data", "estimator", "curvature", "score", "calibration")


LONGEST_PLACE = 4096


class Section(BaseModel):
    """A mapping of the config; an unknown key is an error.

    The docstring of a field is its description in the reference of the config.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        hide_input_in_errors=True,
        use_attribute_docstrings=True,
    )


def default_kind(section: type[Section]) -> BeforeValidator:
    """A validator for sections of several kinds: a mapping without a `kind` is one of this section's kind."""
    kind = section.model_fields["kind"].default
    return BeforeValidator(lambda value: {"kind": kind, **value} if isinstance(value, dict) else value)


def sections_in(annotation: object) -> list[type[BaseModel]]:
    """The sections that a field with this annotation can hold, in its order."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [section for argument in get_args(annotation) for section in sections_in(argument)]


def _check_place(place: str) -> str:
    if any(ord(character) < 32 or ord(character) == 127 for character in place):
        raise ValueError("holds a control character, such as a line break or NUL; remove it")
    try:
        refuse_credentials(place)
        refuse_encoded(place)
        path_on_disk(place)
    except StorageError as error:
        raise ValueError(str(error)) from error
    return place


Raw = dict[str, JsonValue]


Share = Annotated[float, Field(ge=1e-9, lt=1)]


Seed = Annotated[int, Field(ge=0, lt=1 << 63)]


Place = Annotated[str, StringConstraints(min_length=1, max_length=LONGEST_PLACE), AfterValidator(_check_place)]


Paths = Annotated[
    tuple[Place, ...], BeforeValidator(lambda value: [value] if isinstance(value, str) else value), Field(min_length=1)
]
