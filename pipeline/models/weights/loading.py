"""Weights from a file into a module that its code has built."""

from dataclasses import dataclass

from torch import nn

from infra.storage.files import digest
from pipeline.models.user_code import user_code
from pipeline.models.weights.faithful import without_number
from pipeline.models.weights.fitting import fill
from pipeline.models.weights.reading import parse_weights, read_weights


@dataclass(frozen=True)
class LoadedWeights:
    """What was loaded: the digest of the file, how its wrappers were undone, and which numbers are not finite."""

    digest: str
    undone: str
    lacking: str


def load_weights(module: nn.Module, name: str, url: str, granted: int, model: str) -> LoadedWeights:
    """Fill a module from a file of weights; it is then in eval mode.

    Args:
        module: as its code built it.
        name: of the file, as the config has it.
        url: its location.
        granted: bytes that a worker may use.
        model: the code and its arguments, in words.

    Raises:
        SourceError: the file is unusable, or its weights do not fit.
    """
    weights = read_weights(name, url, granted)
    with user_code(f"{model}: loading weights {name}"):
        undone = fill(module, parse_weights(weights, name), f"weights {name} do not fit {model}")
        module.eval()
        return LoadedWeights(digest(weights), undone, without_number(module))
