"""What screening the trusted set found, as stored."""

from typing import Literal

from pydantic import BaseModel

from infra.commits import read_file
from infra.formats.documents import encode, parse
from infra.storage.storage import Storage

SCREENING = "screening.json"


class ClassModes(BaseModel):
    """What screening found in one predicted class (see `madcore.scoring.screening.Modes`)."""

    predicted: int
    samples: int
    separation: float
    z: float
    share: float
    stands_out: bool
    decidable: bool


class Screening(BaseModel):
    """What screening found in all classes; `suspects` are ids, whether or not they were taken out."""

    format: Literal[1] = 1
    suspects: list[str]
    classes: list[ClassModes]
    too_small: list[int]


def encode_screening(screening: Screening) -> dict[str, bytes]:
    """The file of what screening found."""
    return {SCREENING: encode(screening)}


def read_screening(storage: Storage, folder: str) -> Screening | None:
    """What screening found, from the folder of a split or references task; None where nothing was screened."""
    path = f"{folder}/{SCREENING}"
    return parse(read_file(storage, path), Screening, storage.locate(path)) if storage.exists(path) else None
