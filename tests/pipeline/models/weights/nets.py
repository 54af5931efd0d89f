"""Small architectures that tests load weights into, and state dicts of them in other forms."""

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from pipeline.config.audit_config import AuditConfig
from pipeline.errors import SourceError
from pipeline.models.interface import LoadedModel
from pipeline.models.load import load_model
from tests.pipeline.config.configs import MINIMAL, MODEL


def net() -> nn.Module:
    """A convolution, a norm and a head."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 3))


def on_meta() -> nn.Module:
    """Shapes without numbers."""
    with torch.device("meta"):
        return net()


def lazy() -> nn.Module:
    """Shapes that the first input, or a file, decides."""
    return nn.Sequential(nn.LazyConv2d(2, 3), nn.LazyBatchNorm2d(), nn.Flatten(), nn.LazyLinear(3))


def normed() -> nn.Module:
    """Weight norm as torch writes it today."""
    torch.manual_seed(0)
    return nn.Sequential(weight_norm(nn.Linear(4, 3)))


class Tied(nn.Module):
    """A head that is the embedding, a buffer that is computed anew, and one of whole numbers."""

    def __init__(self, tied: bool = True) -> None:
        super().__init__()
        self.embedding, self.head = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
        if tied:
            self.head.weight = self.embedding.weight
        self.register_buffer("positions", torch.arange(4), persistent=False)
        self.register_buffer("steps", torch.tensor([3]))
        self.register_buffer("scale", torch.ones(2))


class Family(nn.Module):
    """A model with the patterns of a family, as Hugging Face's have."""

    _keys_to_ignore_on_load_unexpected = (r"masked_bias", r"^pooler\.")

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)


class Stateful(nn.Module):
    """Its state is more than tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.seen = nn.Linear(2, 2), {"a": 0}

    def get_extra_state(self) -> dict[str, int]:
        return self.seen

    def set_extra_state(self, state: object) -> None:
        assert isinstance(state, dict)
        self.seen = state


def untied() -> nn.Module:
    """`Tied` with a head of its own."""
    return Tied(tied=False)


class Particular(nn.Module):
    """Its own way to load, which fails where a name is missing."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)

    def load_state_dict(self, state_dict: Mapping[str, object], strict: bool = True, assign: bool = False) -> object:
        return super().load_state_dict({**state_dict, "layer.bias": state_dict["layer.bias"]}, strict, assign)


Refusal = tuple[Callable[[], nn.Module], Callable[[nn.Module], object], tuple[str, ...]]
"""An architecture, what a file holds of it, and what is said of that."""


def state_of(module: nn.Module) -> dict[str, Tensor]:
    """Its state dict, without torch's versions."""
    return dict(module.state_dict())


def prefixed(prefix: str, state: Mapping[str, object]) -> dict[str, object]:
    """All names with a prefix."""
    return {prefix + name: value for name, value in state.items()}


def without(state: Mapping[str, object], *ends: str) -> dict[str, object]:
    """Without the tensors whose names end so."""
    return {name: value for name, value in state.items() if not name.endswith(ends)}


def load(folder: Path, build: Callable[[], nn.Module], held: object, name: str = "net.pt") -> LoadedModel:
    """An architecture of this module with what torch saves, or with the bytes of a file."""
    if isinstance(held, bytes):
        (folder / name).write_bytes(held)
    else:
        torch.save(held, folder / name)
    model = {**MODEL, "architecture": f"{__name__}:{build.__name__}", "weights": name}
    config = AuditConfig.parse({**MINIMAL, "models": [model]}, str(folder))
    return load_model(config, config.models[0])


def saved_model(module: nn.Module, folder: Path) -> bytes:
    """What safetensors' save_model writes, which leaves tied tensors out."""
    safetensors.torch.save_model(module, str(folder / "saved.safetensors"))
    return (folder / "saved.safetensors").read_bytes()


def older_weight_norm() -> dict[str, Tensor]:
    """A state dict of before parametrizations."""
    state = state_of(normed())
    new, old = "0.parametrizations.weight.original", "0.weight_"
    return {name.replace(f"{new}0", f"{old}g").replace(f"{new}1", f"{old}v"): value for name, value in state.items()}


def unsaid(
    folder: Path, build: Callable[[], nn.Module], hold: Callable[[nn.Module], object], says: tuple[str, ...]
) -> list[str]:
    """What the refusal of a file for an architecture of this module should say, and does not."""
    with pytest.raises(SourceError) as caught:
        load(folder, build, hold(build()))
    assert "\n" not in str(caught.value)
    return [part for part in says if part not in str(caught.value)]
