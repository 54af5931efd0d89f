"""What every section of a config is made of."""

from typing import Annotated

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, JsonValue, StringConstraints

from infra.errors import StorageError
from infra.storage.urls import refuse_credentials

MODEL_SECTIONS = ("task", "data", "estimator", "curvature", "score", "calibration")


Raw = dict[str, JsonValue]


LONGEST_PLACE = 4096


def _place(place: str) -> str:
    if any(ord(character) < 32 or ord(character) == 127 for character in place):
        raise ValueError("holds a control character, such as a line break or NUL; remove it")
    try:
        refuse_credentials(place)
    except StorageError as error:
        raise ValueError(str(error)) from error
    return place


Share = Annotated[float, Field(ge=1e-9, lt=1)]


Seed = Annotated[int, Field(ge=0, lt=1 << 63)]


Place = Annotated[str, StringConstraints(min_length=1, max_length=LONGEST_PLACE), AfterValidator(_place)]


Paths = Annotated[
    tuple[Place, ...], BeforeValidator(lambda value: [value] if isinstance(value, str) else value), Field(min_length=1)
]


class Section(BaseModel):
    """A mapping of the config; an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, hide_input_in_errors=True)
