"""Hostile weights: files that claim more than they hold, grow, or hold something else, are refused in little memory."""

import io
import json
import pickle
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from pipeline.config.audit_config import AuditConfig
from pipeline.errors import SourceError
from pipeline.models.load import load_model
from pipeline.models.weights.checkpoint import LARGEST_PICKLE
from pipeline.models.weights.reading import LARGEST_HEADER, parse_weights
from tests.strategies import LAW

STATE = {"weight": torch.arange(6.0).reshape(2, 3), "bias": torch.zeros(2)}


def saved(state: object, zipped: bool = True) -> bytes:
    """What `torch.save` writes, in its form of today or in the older one."""
    sink = io.BytesIO()
    torch.save(state, sink, _use_new_zipfile_serialization=zipped)
    return sink.getvalue()


def packed(data: bytes, compression: int = zipfile.ZIP_STORED, pickled: bytes | None = None) -> bytes:
    """A checkpoint's archive packed anew, compressed or with another pickle in it."""
    sink = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(sink, "w", compression, compresslevel=1) as new:
        for entry in old.infolist():
            new.writestr(
                entry.filename,
                pickled if pickled is not None and entry.filename.endswith("data.pkl") else old.read(entry),
            )
    return sink.getvalue()


def header(entries: dict[str, dict[str, object]] | bytes, body: bytes = b"", claimed: int | None = None) -> bytes:
    """A safetensors file with a header of one's own."""
    data = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    return struct.pack("<Q", len(data) if claimed is None else claimed) + data + body


def tensor(shape: list[int], first: int, last: int, dtype: str = "F32") -> dict[str, object]:
    """An entry of a header."""
    return {"dtype": dtype, "shape": shape, "data_offsets": [first, last]}


def reserving(function: bytes, size: int = 1 << 40) -> bytes:
    """A pickle of a few bytes that calls a function with a number of bytes."""
    return b"\x80\x02c" + function + b"\n\x8a\x08" + struct.pack("<q", size) + b"\x85R."


def many(count: int) -> bytes:
    """A header of so many tensors without numbers."""
    return header({f"t{number}": tensor([0], 0, 0) for number in range(count)})


def scripted() -> bytes:
    """A module with its code, as TorchScript."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        for name, data in (
            ("net/code/__torch__.py", b""),
            ("net/data.pkl", b"\x80\x02N."),
            ("net/version", b"3\n"),
            ("net/constants.pkl", b"\x80\x02)."),
        ):
            file.writestr(name, data)
    return archive.getvalue()


def older(pickled: bytes) -> bytes:
    """A checkpoint of torch's older form: pickles of its magic number, version and system, then of the state."""
    return (
        b"".join(pickle.dumps(value, protocol=2) for value in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}))
        + pickled
    )


SAFETENSORS: dict[str, tuple[Callable[[], bytes], str]] = {
    "nothing": (lambda: b"", "is empty; was it copied whole?"),
    "three bytes": (lambda: b"abc", "header too small"),
    "8 EiB of header": (
        lambda: header(b"{}", claimed=(1 << 63) - 1),
        "its header claims 9,223,372,036,854,775,807 bytes, at most 33,554,432 are read",
    ),
    "100 MB of header": (lambda: header(b"{}", claimed=100_000_000), "its header claims 100,000,000 bytes"),
    "all of a header": (
        lambda: header(b'{"__metadata__":{"a":"' + b"x" * LARGEST_HEADER + b'"}}'),
        "its header claims 33,554,457 bytes",
    ),
    "a header beyond its end": (lambda: header(b"{}", claimed=100), "invalid header length"),
    "tensors that overlap": (
        lambda: header({"a": tensor([2], 0, 8), "b": tensor([2], 4, 12)}, bytes(12)),
        "invalid offset",
    ),
    "a tensor beyond its end": (lambda: header({"a": tensor([1 << 40], 0, 1 << 42)}, bytes(12)), "not fully covered"),
    "a hole": (lambda: header({"a": tensor([1], 4, 8)}, bytes(8)), "invalid offset"),
    "a shape that overflows": (lambda: header({"a": tensor([1 << 32, 1 << 32], 0, 0)}), "overflow"),
    "a negative side": (lambda: header({"a": tensor([-1], 0, 4)}, bytes(4)), "invalid JSON in header"),
    "an unknown type": (lambda: header({"a": tensor([1], 0, 4, "F999")}, bytes(4)), "invalid JSON in header"),
    "a type that torch lacks": (
        lambda: header({"a": tensor([8], 0, 4, "F4")}, bytes(4)),
        "holds tensors of a type that torch does not know ('F4')",
    ),
    "complex numbers": (
        lambda: header({"a": tensor([1], 0, 8, "C64")}, bytes(8)),
        "'a' is not a plain tensor of numbers (complex64, strided, on cpu)",
    ),
    "deep JSON": (lambda: header(b'{"a":' + b"[" * 200_000), "recursion limit exceeded"),
}


CHECKPOINTS: dict[str, tuple[Callable[[], bytes], str]] = {
    "a compressed archive": (
        lambda: packed(saved({"weight": torch.zeros(1 << 22)}), zipfile.ZIP_DEFLATED),
        "and torch never compresses",
    ),
    "no archive after all": (lambda: b"PK\x03\x04" + bytes(100), "not a readable checkpoint (BadZipFile"),
    "an archive that is cut off": (lambda: saved(STATE)[:-200], "was it copied whole? If so, save it again"),
    "an optimizer alone": (
        lambda: saved({"state": {}, "param_groups": [{"lr": 0.1}]}),
        "save that of the model: torch.save(model.state_dict(), ...)",
    ),
    "a large pickle": (
        lambda: packed(saved(STATE), pickled=b"]" * (LARGEST_PICKLE + 1)),
        "its pickle has 16,777,217 bytes, at most 16,777,216 are read",
    ),
    "a byte array of 1 TiB": (
        lambda: packed(saved(STATE), pickled=reserving(b"builtins\nbytearray")),
        "reserves memory by numbers that it names",
    ),
    "by its older name": (
        lambda: packed(saved(STATE), pickled=reserving(b"__builtin__\nbytearray")),
        "reserves memory by numbers that it names",
    ),
    "in an older checkpoint": (
        lambda: older(reserving(b"builtins\nbytearray")),
        "reserves memory by numbers that it names",
    ),
    "code": (
        lambda: packed(saved(STATE), pickled=b"\x80\x02cos\nsystem\nX\x04\x00\x00\x00true\x85R."),
        "refused, because it is a full pickle",
    ),
    "TorchScript": (
        scripted,
        "is TorchScript, a program, whose modules' code is inside the file; name the architecture's",
    ),
    "sparse": (
        lambda: saved({"weight": torch.eye(3).to_sparse()}),
        "'weight' is not a plain tensor of numbers (float32, sparse_coo, on cpu)",
    ),
    "without numbers": (
        lambda: saved({"weight": torch.empty(1 << 40, device="meta")}),
        "'weight' is not a plain tensor of numbers (float32, strided, on meta)",
    ),
    "complex": (
        lambda: saved({"weight": torch.zeros(1, dtype=torch.complex64)}),
        "'weight' is not a plain tensor of numbers (complex64",
    ),
    "keys that are numbers": (
        lambda: saved({1: torch.zeros(1)}),
        "its tensors have no names, but keys such as 1; save model.state_dict()",
    ),
}


def complaint(data: bytes, name: str) -> str:
    with pytest.raises(SourceError) as caught:
        parse_weights(data, name)
    message = str(caught.value)
    assert message.startswith(f"weights {name}: ")
    return message


@pytest.mark.parametrize(("make", "expected"), SAFETENSORS.values(), ids=SAFETENSORS)
def test_a_hostile_safetensors_file_is_refused(make: Callable[[], bytes], expected: str) -> None:
    assert expected in complaint(make(), "net.safetensors")


@pytest.mark.parametrize(("make", "expected"), CHECKPOINTS.values(), ids=CHECKPOINTS)
def test_a_hostile_checkpoint_is_refused(make: Callable[[], bytes], expected: str) -> None:
    assert expected in complaint(make(), "net.pt")


@pytest.mark.parametrize("zipped", [True, False])
def test_an_honest_checkpoint_is_read(zipped: bool) -> None:
    (found,) = parse_weights(saved({"epoch": 3, "state_dict": STATE}, zipped), "net.pth")
    read = {name: value for name, value in found.tensors.items() if isinstance(value, Tensor)}
    assert read.keys() == STATE.keys()
    assert all(torch.equal(read[name], value) for name, value in STATE.items())


MEMORY = """
import resource, sys
from pathlib import Path
from pipeline.errors import SourceError
from pipeline.models.weights.reading import parse_weights
limit = 4 << 30
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
try:
    parse_weights(Path(sys.argv[1]).read_bytes(), sys.argv[1])
    print("read")
except SourceError:
    lines = Path("/proc/self/status").read_text().splitlines()
    print(next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) // 1024)
"""


GROWING = {
    "an archive of zeros": ("net.pt", lambda: packed(saved({"weight": torch.zeros(1 << 28)}), zipfile.ZIP_DEFLATED)),
    "a byte array": ("net.pt", lambda: packed(saved(STATE), pickled=reserving(b"builtins\nbytearray", 3 << 30))),
    "a header of tensors": ("net.safetensors", lambda: many(550_000)),
}


@pytest.mark.parametrize(("name", "make"), GROWING.values(), ids=GROWING)
def test_what_would_grow_costs_little_memory(name: str, make: Callable[[], bytes], tmp_path: Path) -> None:
    """Torch alone takes 300 to 600 MiB; each of these would take a GiB or more besides, or a GiB a second."""
    (tmp_path / name).write_bytes(make())
    ended = subprocess.run(
        [sys.executable, "-c", MEMORY, str(tmp_path / name)], capture_output=True, text=True, check=True, timeout=120
    )
    assert int(ended.stdout) < 900, "MiB"


def read_or_refused(data: bytes, name: str) -> None:
    try:
        parse_weights(data, name)
    except SourceError as error:
        assert str(error).startswith("weights ")  # noqa: PT017 - every other error is a failure


@LAW
@given(data=st.data(), name=st.sampled_from(["net.safetensors", "net.pt", "old.pt"]))
def test_a_file_with_bytes_changed_or_cut_is_read_or_refused(data: st.DataObject, name: str) -> None:
    body = bytearray(
        safetensors.torch.save(STATE) if name.endswith("safetensors") else saved(STATE, zipped=name != "old.pt")
    )
    for _ in range(data.draw(st.integers(0, 3))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    read_or_refused(bytes(body[: data.draw(st.sampled_from([len(body), len(body) // 2, 60]))]), name)


@LAW
@given(pickled=st.binary(max_size=60))
def test_a_checkpoint_with_any_pickle_is_read_or_refused(pickled: bytes) -> None:
    read_or_refused(packed(saved(STATE), pickled=b"\x80\x02" + pickled + b"."), "net.pt")


def audited(folder: Path, state: dict[str, Tensor], granted: str = "4GiB") -> nn.Module:
    """A linear layer with weights of a file."""
    safetensors.torch.save_file(state, folder / "net.safetensors")
    model = {
        "name": "net",
        "architecture": "torch.nn:Linear",
        "kwargs": {"in_features": 3, "out_features": 2},
        "weights": "net.safetensors",
    }
    raw = {
        "root": "r",
        "task": "classification",
        "models": [model],
        "data": {"trusted": "t", "audited": "a"},
        "run": {"memory_per_worker": granted},
    }
    config = AuditConfig.parse(raw, str(folder))  # type: ignore[arg-type]
    return load_model(config, config.models[0]).module


def test_a_tensor_of_another_kind_of_number_is_converted_and_none_is_left_random(tmp_path: Path) -> None:
    module = audited(tmp_path, {name: value.half() for name, value in STATE.items()})
    assert all(torch.equal(value, STATE[name]) for name, value in module.state_dict().items())


def test_a_file_larger_than_memory_is_refused_before_it_is_read(tmp_path: Path) -> None:
    (tmp_path / "net.safetensors").touch()
    with (tmp_path / "large.safetensors").open("wb") as file:
        file.truncate(1 << 40)
    model = {
        "name": "net",
        "architecture": "torch.nn:Linear",
        "kwargs": {"in_features": 3, "out_features": 2},
        "weights": "large.safetensors",
    }
    raw = {"root": "r", "task": "classification", "models": [model], "data": {"trusted": "t", "audited": "a"}}
    config = AuditConfig.parse(raw, str(tmp_path))  # type: ignore[arg-type]
    with pytest.raises(
        SourceError,
        match=r"weights large\.safetensors: 1,024\.0 GiB cannot fit, run\.memory_per_worker grants 4\.0 GiB",
    ):
        load_model(config, config.models[0])


@pytest.mark.parametrize("first", [b"\x80", b"PK"], ids=["pickle", "archive"])
def test_safetensors_whose_header_is_as_long_as_a_pickle_begins_are_read(first: bytes) -> None:
    tensor = torch.arange(3.0)
    length = int.from_bytes(first.ljust(8, b"\0"), "little")
    header = b'{"weight":{"dtype":"F32","shape":[3],"data_offsets":[0,12]}}'
    data = length.to_bytes(8, "little") + header.ljust(length) + tensor.numpy().tobytes()
    assert data.startswith(first)
    (state,) = parse_weights(data, "net.safetensors")
    assert torch.equal(state.tensors["weight"], tensor)
