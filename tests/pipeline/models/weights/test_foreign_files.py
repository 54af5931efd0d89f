"""A file that holds no weights is called what it is, with the remedy."""

import io
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.errors import SourceError
from pipeline.models.weights.reading import parse_weights, read_weights


def archive(*entries: str) -> bytes:
    """A zip of empty files."""
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as file:
        for entry in entries:
            file.writestr(entry, b"")
    return sink.getvalue()


def scripted() -> bytes:
    """A layer as TorchScript."""
    sink = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch would rather have it exported
        torch.jit.save(torch.jit.trace(nn.Linear(2, 1), torch.zeros(1, 2)), sink)
    return sink.getvalue()


def exported() -> bytes:
    """A layer as a program of torch.export."""
    sink = io.BytesIO()
    torch.export.save(torch.export.export(nn.Linear(2, 1), (torch.zeros(1, 2),)), sink)
    return sink.getvalue()


def arrays() -> bytes:
    """An archive of NumPy."""
    sink = io.BytesIO()
    np.savez(sink, weight=np.zeros(3))
    return sink.getvalue()


FILES: dict[str, tuple[Callable[[], bytes], tuple[str, ...]]] = {
    "TorchScript": (scripted, ("is TorchScript, a program", "torch.save(torch.jit.load(file).state_dict(), ...)")),
    "torch.export": (exported, ("is a program of torch.export, a graph without modules", "save the state dict of the")),
    "torch.export of before": (lambda: archive("version", "serialized_exported_program.json"), ("torch.export",)),
    "torch.package": (lambda: archive("net/.data/extern_modules", "net/net.py"), ("is a package of torch.package",)),
    "Keras": (lambda: archive("config.json", "model.weights.h5"), ("is an archive of Keras", "the library that wrote")),
    "HDF5": (lambda: b"\x89HDF\r\n\x1a\n" + bytes(64), ("is HDF5, as Keras writes it",)),
    "NumPy": (lambda: b"\x93NUMPY\x01\x00", ("is an array of NumPy",)),
    "NumPy's archive": (arrays, ("is an archive of NumPy arrays",)),
    "ONNX": (lambda: b"\x08\x09\x12\x07pytorch\x1a\x03", ("is ONNX, a graph without modules", "with onnx2torch")),
    "GGUF": (lambda: b"GGUF\x03\x00\x00\x00", ("is GGUF, quantized weights of llama.cpp; use the safetensors",)),
    "TensorFlow Lite": (lambda: b"\x1c\x00\x00\x00TFL3", ("is a program for TensorFlow Lite",)),
    "ExecuTorch": (lambda: b"\x1c\x00\x00\x00ET12", ("is a program for ExecuTorch",)),
    "an index": (
        lambda: b'{\n  "metadata": {}, "weight_map": {"a": "model-00001-of-00002.safetensors"}}',
        ("is the index of a checkpoint in several files", "name the folder of a language model as `huggingface`"),
    ),
    "Git LFS": (
        lambda: b"version https://git-lfs.github.com/spec/v1\noid",
        ("is a pointer of Git LFS", "git lfs pull"),
    ),
    "a web page": (lambda: b"\n<!DOCTYPE html><html>", ("is a web page", "download it again")),
    "gzip": (lambda: b"\x1f\x8b\x08", ("is compressed; unpack it",)),
    "tar": (lambda: bytes(257) + b"ustar", ("is a tar archive",)),
    "nothing": (lambda: b"", ("is empty; was it copied whole?",)),
    "text": (
        lambda: b"weights",
        ("neither safetensors nor a state dict that torch.save wrote (.pt, .pth, .ckpt, .bin)",),
    ),
}


@pytest.mark.parametrize("name", ["net.pt", "net.weights"])
@pytest.mark.parametrize(("make", "says"), FILES.values(), ids=FILES)
def test_it_is_called_what_it_is(make: Callable[[], bytes], says: tuple[str, ...], name: str) -> None:
    with pytest.raises(SourceError) as caught:
        parse_weights(make(), name)
    for part in says:
        assert part in str(caught.value)
    assert str(caught.value).startswith(f"weights {name}: ")
    assert "\n" not in str(caught.value)


def test_what_makes_a_pickle_a_full_one_is_named() -> None:
    sink = io.BytesIO()
    torch.save({"state_dict": {"weight": torch.zeros(1)}, "best": np.float64(0.5)}, sink)
    with pytest.raises(SourceError, match=r"refused, because it is a full pickle, .* \(here numpy\.[\w.]*scalar\);"):
        parse_weights(sink.getvalue(), "net.pt")


FOLDERS: dict[str, tuple[tuple[str, ...], str]] = {
    "of files": (("a.pt", "b.pt"), "is a folder, not a file; name the weights in it, files there: a.pt, b.pt"),
    "of a model": (("config.json", "model.safetensors"), "or, of a language model, the folder as `huggingface`"),
    "of a distributed checkpoint": ((".metadata", "__0_0.distcp"), "format_utils.dcp_to_torch_save"),
    "of nothing": ((), "files there: none"),
}


@pytest.mark.parametrize(("names", "says"), FOLDERS.values(), ids=FOLDERS)
def test_a_folder_is_no_file(names: tuple[str, ...], says: str, tmp_path: Path) -> None:
    for name in names:
        (tmp_path / name).touch()
    with pytest.raises(SourceError) as caught:
        read_weights("net", str(tmp_path), 1 << 30)
    assert str(caught.value).startswith("weights net: is a folder") and says in str(caught.value)
