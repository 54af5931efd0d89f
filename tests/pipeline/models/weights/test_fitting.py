"""What torch loads is loaded, out of wrappers and prefixes where one way fits; what fits in none or two is refused."""

import io
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from pipeline.errors import SourceError
from tests.pipeline.models.weights.nets import (
    Family,
    Particular,
    Refusal,
    Stateful,
    Tied,
    lazy,
    load,
    net,
    normed,
    older_weight_norm,
    on_meta,
    prefixed,
    saved_model,
    state_of,
    unsaid,
    untied,
    without,
)

LIGHTNING = {
    "epoch": 3,
    "hyper_parameters": {"lr": 0.1},
    "optimizer_states": [{"state": {0: {"step": torch.ones(())}}}],
}


LOADED: dict[str, tuple[Callable[[], nn.Module], Callable[[nn.Module], object], str]] = {
    "as it is": (net, lambda own: own.state_dict(), ""),
    "counters missing, versions unknown": (net, lambda own: without(state_of(own), "num_batches_tracked"), ""),
    "lazy": (lazy, lambda _: net().state_dict(), ""),
    "weight norm of before": (normed, lambda _: older_weight_norm(), ""),
    "a scalar in a row": (net, lambda own: state_of(own) | {"1.num_batches_tracked": torch.tensor([7])}, ""),
    "halves": (net, lambda own: {name: value.half() for name, value in own.state_dict().items()}, ""),
    "counters averaged": (net, lambda own: state_of(own) | {"1.num_batches_tracked": torch.tensor(7.5)}, ""),
    "doubles": (net, lambda own: {name: value.double() for name, value in own.state_dict().items()}, ""),
    "extra state": (Stateful, lambda own: own.state_dict(), ""),
    "tied, one of two": (Tied, lambda own: without(own.state_dict(), "head.weight"), ""),
    "tied, the other": (Tied, lambda own: without(own.state_dict(), "embedding.weight"), ""),
    "not persistent": (
        Tied,
        lambda own: own.state_dict() | {"positions": torch.zeros(1, 9)},
        "leaving out positions, which the architecture does not keep in its weights",
    ),
    "ignored by the family": (
        Family,
        lambda own: own.state_dict() | {"layer.masked_bias": torch.zeros(()), "pooler.weight": torch.ones(2)},
        "leaving out layer.masked_bias, pooler.weight, which the architecture does not keep in its weights",
    ),
    "state_dict": (net, lambda own: {"state_dict": own.state_dict(), "epoch": 3}, "from its entry `state_dict`"),
    "model": (net, lambda own: {"model": own.state_dict(), "args": {"lr": 1}}, "from its entry `model`"),
    "net": (net, lambda own: {"net": own.state_dict()}, "from its entry `net`"),
    "model_state_dict": (net, lambda own: {"model_state_dict": own.state_dict(), "loss": 0.1}, "`model_state_dict`"),
    "an entry of an entry": (net, lambda own: {"app": {"model": own.state_dict()}}, "from its entry `app.model`"),
    "module.": (net, lambda own: nn.DataParallel(own).state_dict(), "without the prefix `module.`"),
    "_orig_mod.": (net, lambda own: prefixed("_orig_mod.", own.state_dict()), "without the prefix `_orig_mod.`"),
    "both": (net, lambda own: prefixed("module._orig_mod.", own.state_dict()), "prefix `module._orig_mod.`"),
    "inside": (
        net,
        lambda own: {name.replace(".", "._orig_mod.", 1): value for name, value in own.state_dict().items()},
        "without `_orig_mod.` in its names",
    ),
    "entry and prefix": (
        net,
        lambda own: {"state_dict": prefixed("module.", own.state_dict())},
        "from its entry `state_dict`, without the prefix `module.`",
    ),
    "a way of its own to load": (
        Particular,
        lambda own: {"state_dict": own.state_dict()},
        "from its entry `state_dict`",
    ),
    "a way of its own to load, with a prefix": (
        Particular,
        lambda own: prefixed("module.", own.state_dict()),
        "without the prefix `module.`",
    ),
    "averaged": (net, lambda own: torch.optim.swa_utils.AveragedModel(own).state_dict(), "the prefix `module.`"),
    "Lightning": (
        net,
        lambda own: LIGHTNING | {"state_dict": prefixed("model.", own.state_dict())},
        "from its entry `state_dict`, without the prefix `model.`",
    ),
    "Lightning, compiled, with the weights of its loss": (
        net,
        lambda own: {
            "state_dict": prefixed("model._orig_mod.", own.state_dict()) | {"criterion.weight": torch.ones(3)}
        },
        "without the prefix `model.`, leaving out criterion.weight, without the prefix `_orig_mod.`",
    ),
    "wrapped, with optimizers by name": (
        net,
        lambda own: {
            "model": own.state_dict(),
            "optimizer": {"state": {name: {"exp_avg": value} for name, value in own.state_dict().items()}},
        },
        "from its entry `model`",
    ),
}


@pytest.mark.parametrize(("build", "hold", "undone"), LOADED.values(), ids=LOADED)
def test_what_torch_loads_is_loaded(
    build: Callable[[], nn.Module], hold: Callable[[nn.Module], object], undone: str, tmp_path: Path
) -> None:
    own = build()
    loaded = load(tmp_path, build, hold(own))
    assert undone in loaded.undone and bool(undone) == bool(loaded.undone)
    expected = net() if build is lazy else own
    for name, value in expected.state_dict().items():
        found = loaded.module.state_dict()[name]
        if isinstance(value, Tensor) and not name.endswith("num_batches_tracked"):
            assert found.dtype == value.dtype and torch.allclose(found, value, rtol=1e-3)


def test_versions_of_the_file_decide_whether_counters_may_be_missing(tmp_path: Path) -> None:
    state = net().state_dict()
    del state["1.num_batches_tracked"]
    with pytest.raises(SourceError, match=r"1 missing in the file: 1\.num_batches_tracked"):
        load(tmp_path, net, state)
    state._metadata = {name: {"version": 1} for name in state._metadata}  # type: ignore[attr-defined]
    assert load(tmp_path, net, state).undone == ""
    wrapped = type(state)(prefixed("module.", state))
    wrapped._metadata = prefixed("module.", state._metadata)  # type: ignore[attr-defined]
    assert load(tmp_path, net, wrapped).undone == "without the prefix `module.`"


@pytest.mark.parametrize("build", [Tied, untied])
def test_tensors_that_save_model_leaves_out_are_filled(build: Callable[[], nn.Module], tmp_path: Path) -> None:
    own = Tied()
    module = load(tmp_path, build, saved_model(own, tmp_path), "net.safetensors").module
    assert torch.equal(module.get_parameter("head.weight"), own.embedding.weight)
    assert torch.equal(module.get_parameter("embedding.weight"), own.embedding.weight)


def test_a_lazy_module_is_ready_to_run(tmp_path: Path) -> None:
    own, inputs = net().eval(), torch.rand(2, 1, 4, 4)
    assert torch.equal(load(tmp_path, lazy, own.state_dict()).module(inputs), own(inputs))


def test_an_ending_says_nothing(tmp_path: Path) -> None:
    sink = io.BytesIO()
    torch.save(net().state_dict(), sink)
    for name in ("last.ckpt", "pytorch_model.bin", "net.pth.tar", "net.safetensors"):
        load(tmp_path, net, sink.getvalue(), name)
    load(tmp_path, net, safetensors.torch.save(state_of(net())), "net.pt")


def test_a_file_cannot_make_torch_replace_parameters(tmp_path: Path) -> None:
    state = net().half().state_dict()
    for noted in state._metadata.values():  # type: ignore[attr-defined]
        noted["assign_to_params_buffers"] = True
    assert {value.dtype for value in load(tmp_path, net, state).module.parameters()} == {torch.float32}


def test_a_file_may_note_nonsense_beside_its_tensors(tmp_path: Path) -> None:
    state = net().state_dict()
    state._metadata = 7  # type: ignore[attr-defined]
    assert load(tmp_path, net, state).undone == ""


REFUSED: dict[str, Refusal] = {
    "an architecture without numbers": (
        on_meta,
        lambda _: net().state_dict(),
        ("0.weight is on the device meta, without memory; build the architecture on the CPU",),
    ),
    "an entry of many names, by many names": (
        net,
        lambda own: {f"a{n}": {f"b{m}": {"c": own.state_dict(), "d": {"e": 1}} for m in range(9)} for n in range(9)},
        ("in one way only, but in 64: from its entry `a0.b0.c`; or from its entry `a0.b1.c`",),
    ),
    "two entries": (
        net,
        lambda own: {"state_dict": own.state_dict(), "ema": own.state_dict()},
        ("in one way only, but in 2: from its entry `state_dict`; or from its entry `ema`; save the state dict that",),
    ),
    "two parts": (
        net,
        lambda own: prefixed("student.", own.state_dict()) | prefixed("teacher.", own.state_dict()),
        ("but in 2: without the prefix `student.`", "or without the prefix `teacher.`"),
    ),
    "no entry fits": (
        net,
        lambda own: {"state_dict": without(own.state_dict(), "3.bias"), "epoch": 3},
        ("with kwargs {} (taken from its entry `state_dict`): 1 missing in the file: 3.bias",),
    ),
    "no prefix fits": (
        net,
        lambda own: prefixed("module.", without(own.state_dict(), "3.bias")),
        ("(taken without the prefix `module.`): 1 missing in the file: 3.bias",),
    ),
    "a way of its own to load that fails": (
        Particular,
        lambda own: without(own.state_dict(), "bias"),
        ("with kwargs {}: KeyError: 'layer.bias'",),
    ),
    "a leftover": (
        net,
        lambda own: own.state_dict() | {"4.weight": torch.ones(1)},
        ("1 unknown to the architecture: 4.weight",),
    ),
    "plain things between its tensors": (
        net,
        lambda own: own.state_dict() | {"epoch": 3},
        ("holds no state dict, which", "beside its tensors it holds 'epoch' (int), save the tensors in an entry"),
    ),
    "nothing": (net, lambda _: {}, ("8 missing in the file: 0.weight, 0.bias, 1.weight, ...",)),
    "a tensor that repeats its numbers": (
        lazy,
        lambda _: {"0.weight": torch.zeros(1).expand(1 << 40)},
        ("'0.weight' claims 4,398,046,511,104 bytes by repeating the numbers of a file of",),
    ),
}


@pytest.mark.parametrize("refusal", REFUSED.values(), ids=REFUSED)
def test_what_fits_in_no_way_or_in_more_than_one_is_refused(refusal: Refusal, tmp_path: Path) -> None:
    assert unsaid(tmp_path, *refusal) == []
