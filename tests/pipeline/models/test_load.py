"""Models with their weights, and what the digest depends on."""

import sys
from pathlib import Path

import pytest
import torch
from pydantic import JsonValue
from safetensors.torch import save_file

from infra.storage.files import digest
from pipeline.config.audit_config import AuditConfig
from pipeline.errors import SourceError
from pipeline.models.interface import LoadedModel
from pipeline.models.load import load_model
from tests.pipeline.config.configs import MINIMAL, MODEL

SOURCE = """from torch import nn


def build(width=2, bias=True):
    return nn.Linear(3, width, bias=bias)


def build_steeper():
    return nn.Sequential(nn.Linear(3, 2), nn.Hardtanh())[0]
"""


def load(
    folder: Path,
    kwargs: dict[str, JsonValue] | None = None,
    source: str = SOURCE,
    function: str = "build",
    **weights: torch.Tensor,
) -> LoadedModel:
    """A linear layer from a folder of its own code and weights."""
    (folder / "net.py").write_text(source)
    save_file(weights or {"weight": torch.ones(2, 3), "bias": torch.zeros(2)}, folder / "net.safetensors")
    model = {**MODEL, "architecture": f"net.py:{function}", "kwargs": kwargs or {}}
    config = AuditConfig.parse({**MINIMAL, "models": [model]}, str(folder))
    return load_model(config, config.models[0])


def test_weights_fill_the_architecture_in_eval_mode(tmp_path: Path) -> None:
    loaded = load(tmp_path)
    assert torch.equal(loaded.module(torch.tensor([[1.0, 2.0, 3.0]])), torch.tensor([[6.0, 6.0]]))
    assert not loaded.module.training
    assert (loaded.source, loaded.limits) == (SOURCE.encode(), None)


def test_the_digest_is_of_weights_source_function_and_kwargs(tmp_path: Path) -> None:
    loaded = load(tmp_path)
    weights = (tmp_path / "net.safetensors").read_bytes()
    assert loaded.digest == digest("\n".join([digest(weights), digest(SOURCE.encode()), "build", "{}"]).encode())
    others = [
        load(tmp_path, {"width": 2}),
        load(tmp_path, source=SOURCE + "# changed\n"),
        load(tmp_path, function="build_steeper"),
        load(tmp_path, weight=torch.zeros(2, 3), bias=torch.zeros(2)),
    ]
    assert len({loaded.digest, *(other.digest for other in others)}) == 5


def test_the_digest_is_of_what_the_architecture_imports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mynet").mkdir()
    (tmp_path / "mynet/net.py").write_text(SOURCE.replace("\n\n", "\nfrom mynet.ops import LIMIT\n\n", 1))
    save_file({"weight": torch.ones(2, 3), "bias": torch.zeros(2)}, tmp_path / "net.safetensors")
    config = AuditConfig.parse({**MINIMAL, "models": [{**MODEL, "architecture": "mynet.net:build"}]}, str(tmp_path))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def digest_with(ops: str) -> str:
        (tmp_path / "mynet/ops.py").write_text(ops)
        try:
            return load_model(config, config.models[0]).digest
        finally:
            for name in [name for name in sys.modules if name.partition(".")[0] == "mynet"]:
                del sys.modules[name]

    first = digest_with("LIMIT = 6\n")
    assert digest_with("LIMIT = 6\n") == first != digest_with("LIMIT = 7\n")


@pytest.mark.parametrize(
    ("kwargs", "weights", "says"),
    [
        (
            {"width": 4},
            {},
            r"with kwargs {'width': 4}: 2 of another shape: weight \(\(2, 3\) in the file, \(4, 3\) in the",
        ),
        ({}, {"weight": torch.ones(2, 3)}, "1 missing in the file: bias"),
        ({"bias": False}, {}, "1 unknown to the architecture: bias"),
        ({"depth": 2}, {}, "architecture net.py:build: failed with TypeError"),
    ],
)
def test_weights_that_do_not_fit_are_named(
    tmp_path: Path, kwargs: dict[str, JsonValue], weights: dict[str, torch.Tensor], says: str
) -> None:
    with pytest.raises(SourceError, match=says):
        load(tmp_path, kwargs, **weights)


def test_what_is_no_module_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"returned an object of type int, not a torch.nn.Module"):
        load(tmp_path, source="def build():\n    return 3\n")
