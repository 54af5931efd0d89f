"""What a file is that holds no weights that mad loads, by its first bytes or its archive's entries, and the remedy."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

SAVE = "save the state dict of the module that it was made from: torch.save(module.state_dict(), ...)"


CONVERT = (
    "make a torch module of it in an architecture of your own, as docs/guides/models-and-data shows with onnx2torch"
)


EXPORT = "load it with the library that wrote it, and save a state dict of the torch module that names its tensors"


@dataclass(frozen=True)
class _Kind:
    """A kind of file: what it is called, what to do instead, and how it is told by its first bytes."""

    what: str
    remedy: str
    tells: Callable[[bytes], bool]


def _starts(*starts: bytes) -> Callable[[bytes], bool]:
    return lambda data: data.startswith(starts)


def _index(data: bytes) -> bool:
    return data.lstrip()[:1] == b"{" and b'"weight_map"' in data


def _onnx(data: bytes) -> bool:
    """A protobuf whose first field is a small version number, and whose second is the name of its producer."""
    return data[:1] == b"\x08" and data[1:2] < b"\x20" and (data[2:3] == b"\x12" or b"onnx" in data[:512].lower())


KINDS = (
    _Kind("is empty", "was it copied whole?", lambda data: not data),
    _Kind(
        "is a pointer of Git LFS, not the file itself",
        "run git lfs pull",
        _starts(b"version https://git-lfs.github.com"),
    ),
    _Kind(
        "is the index of a checkpoint in several files",
        "join them into one safetensors file; or name the folder of a language model as `huggingface`",
        _index,
    ),
    _Kind("is GGUF, quantized weights of llama.cpp", "use the safetensors that it was made from", _starts(b"GGUF")),
    _Kind("is HDF5, as Keras writes it", EXPORT, _starts(b"\x89HDF\r\n\x1a\n")),
    _Kind("is an array of NumPy", EXPORT, _starts(b"\x93NUMPY")),
    _Kind("is a program for TensorFlow Lite", EXPORT, lambda data: data[4:8] == b"TFL3"),
    _Kind("is a program for ExecuTorch", SAVE, lambda data: data[4:6] == b"ET" and data[6:8].isdigit()),
    _Kind("is ONNX, a graph without modules", CONVERT, _onnx),
    _Kind(
        "is compressed", "unpack it", _starts(b"\x1f\x8b", b"BZh", b"\xfd7zXZ\x00", b"\x28\xb5\x2f\xfd", b"7z\xbc\xaf")
    ),
    _Kind(
        "is a tar archive, which torch before 1.6 could write, or a folder packed",
        "unpack it, or save its state dict again with a torch of today",
        lambda data: data[257:262] == b"ustar",
    ),
    _Kind(
        "is a web page",
        "the download gave a page instead of the file; download it again",
        lambda data: data[:512].lstrip().lower().startswith((b"<!doctype html", b"<html")),
    ),
    _Kind("is a table of Parquet, data and not weights", "name the weights", _starts(b"PAR1")),
)


def foreign(data: bytes) -> str:
    """What a file is that is neither safetensors nor of torch, and what to do instead; "" where nobody knows."""
    return next((f"{kind.what}; {kind.remedy}" for kind in KINDS if kind.tells(data)), "")


def foreign_archive(entries: Sequence[str]) -> str:
    """What an archive is by the names of its entries, and what to do instead; "" if it may be a checkpoint."""
    inner = {entry.partition("/")[2] for entry in entries}
    if any(name.startswith("models/") or name == "archive_format" for name in inner) or _exported(entries):
        return f"is a program of torch.export, a graph without modules; {SAVE}"
    if "constants.pkl" in inner or any(name.startswith("code/") for name in inner):
        return (
            "is TorchScript, a program, whose modules' code is inside the file; name the architecture's own code, and "
            "save its state dict: torch.save(torch.jit.load(file).state_dict(), ...), if you trust the file"
        )
    if ".data/extern_modules" in inner:
        return f"is a package of torch.package, which holds code; {SAVE}"
    if any(entry.endswith("model.weights.h5") for entry in entries):
        return f"is an archive of Keras; {EXPORT}"
    if entries and all(entry.endswith(".npy") for entry in entries):
        return f"is an archive of NumPy arrays; {EXPORT}"
    return ""


def _exported(entries: Sequence[str]) -> bool:
    return any(
        entry.endswith(("serialized_exported_program.json", "serialized_exported_program.pt")) for entry in entries
    )
