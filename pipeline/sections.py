"""What every section of a config is made of."""

from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

Share = Annotated[float, Field(ge=1e-9, lt=1)]
Seed = Annotated[int, Field(ge=0, lt=1 << 63)]
Paths = Annotated[tuple[str, ...], BeforeValidator(lambda value: [value] if isinstance(value, str) else value), Field(min_length=1)]


class Section(BaseModel):
    """A mapping of the config; an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
