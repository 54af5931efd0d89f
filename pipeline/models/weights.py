"""Weights: untrusted files. Nothing in them is run, and what they claim is checked before memory is reserved for it.

The memory that a file can make a reader reserve is bounded by the file's own size: the length of a safetensors header
is checked before it is parsed, a checkpoint's archive must hold its tensors uncompressed, as torch writes it, and its
pickle may not build objects of a size that it only names.
"""

import io
import pickle
import pickletools
import struct
import warnings
import zipfile
from collections.abc import Mapping
from typing import TypeGuard

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from infra.errors import StorageError
from infra.execution.contract import describe
from infra.storage.files import read_input, size_of
from pipeline.errors import SourceError

PICKLES = (b"PK\x03\x04", b"\x80")


LARGEST_HEADER = 32 << 20


LARGEST_PICKLE = 16 << 20


ALWAYS_FITS = 1 << 30


UNREADABLE = (
    RuntimeError,
    OSError,
    EOFError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    AssertionError,
    ArithmeticError,
    MemoryError,
    struct.error,
)


RESERVING = frozenset({"builtins bytearray", "__builtin__ bytearray"})


def read_weights(name: str, url: str, granted: int) -> bytes:
    """All bytes of a weights file, unless they are more than a worker could hold.

    Args:
        name: of the file, as configured.
        url: of the file.
        granted: bytes of memory of a worker. As float32 tensors, weights take at least half of their file's bytes.

    Raises:
        SourceError: there is no such file, or it is too large.
    """
    try:
        size = size_of(url)
        if size > max(2 * granted, ALWAYS_FITS):
            raise SourceError(
                f"weights {name}: {size / 2**30:,.1f} GiB cannot fit, "
                f"run.memory_per_worker grants {granted / 2**30:,.1f} GiB; is it the right file? If so, grant more"
            )
        return read_input(url)
    except StorageError as error:
        raise SourceError(f"weights {name}: {error}") from error


def parse_weights(data: bytes, name: str) -> Mapping[str, Tensor]:
    """The tensors of a weights file, by name, each plain and on the CPU.

    Raises:
        SourceError: it is neither safetensors nor a state dict, holds code, claims more than it holds, or holds tensors
            that are not weights.
    """
    if name.endswith(".safetensors"):
        state = _parse_safetensors(data, name)
    elif name.endswith((".pt", ".pth")):
        state = _parse_checkpoint(data, name)
    else:
        raise SourceError(f"weights {name}: expected .safetensors, or a state dict as .pt or .pth")
    for key, value in state.items():
        if not _is_plain(value):
            kind = f"{value.dtype}, {value.layout}, on {value.device}".replace("torch.", "")
            raise SourceError(
                f"weights {name}: {key!r} is not a plain tensor of numbers ({kind}); "
                "save weights dense, real and unquantized"
            )
    return state


def _is_plain(tensor: Tensor) -> bool:
    dense = tensor.layout == torch.strided and not tensor.is_nested
    return dense and tensor.device.type == "cpu" and not tensor.is_quantized and not tensor.is_complex()


def check_header(start: bytes, name: str) -> None:
    """Checks the first eight bytes of a safetensors file, the length of its header, before the header is parsed.

    Raises:
        SourceError: it is more than LARGEST_HEADER.
    """
    length = int.from_bytes(start[:8], "little")
    if length > LARGEST_HEADER:
        raise SourceError(
            f"{name}: not a readable safetensors file "
            f"(its header claims {length:,} bytes, at most {LARGEST_HEADER:,} are read); save it again with safetensors"
        )


def _parse_safetensors(data: bytes, name: str) -> Mapping[str, Tensor]:
    check_header(data, f"weights {name}")
    try:
        return safetensors.torch.load(data)
    except (safetensors.SafetensorError, ValueError, RuntimeError) as error:
        raise SourceError(f"weights {name}: not a readable safetensors file ({error})") from error
    except KeyError as error:
        raise SourceError(
            f"weights {name}: holds tensors of a type that torch does not know ({error}); "
            "save them as float32, float16 or bfloat16"
        ) from error


def _parse_checkpoint(data: bytes, name: str) -> Mapping[str, Tensor]:
    _refuse_bombs(data, name)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            loaded = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if not data.startswith(PICKLES):
            raise SourceError(f"weights {name}: not a torch checkpoint") from error
        raise SourceError(
            f"weights {name}: refused, because it is a full pickle, and loading one runs whatever code it holds; "
            "save the state dict alone, best with safetensors.torch.save_file(model.state_dict(), ...)"
        ) from error
    except UNREADABLE as error:
        raise SourceError(f"weights {name}: not a readable checkpoint ({describe(error)})") from error
    state = loaded.get("state_dict", loaded) if isinstance(loaded, dict) else loaded
    if not _is_state_dict(state):
        raise SourceError(f"weights {name}: holds no state dict, which is a mapping of parameter names to tensors")
    return state


def _is_state_dict(state: object) -> TypeGuard[dict[str, Tensor]]:
    if not isinstance(state, dict):
        return False
    return all(isinstance(key, str) and isinstance(value, Tensor) for key, value in state.items())


def _refuse_bombs(data: bytes, name: str) -> None:
    """Refuses compressed archives, and pickles that are too large or reserve memory by a number that they name."""
    pickled = _pickled(data, name) if data.startswith(b"PK") else data
    if _reserves(pickled):
        raise SourceError(
            f"weights {name}: refused, because its pickle reserves memory by numbers that it names, "
            "which no state dict does; save it as safetensors"
        )


def _pickled(data: bytes, name: str) -> bytes:
    """The pickle in the archive that a checkpoint is."""
    try:
        archive = zipfile.ZipFile(io.BytesIO(data))
    except (zipfile.BadZipFile, NotImplementedError, ValueError, OSError) as error:
        raise SourceError(f"weights {name}: not a readable checkpoint ({describe(error)})") from error
    entries = archive.infolist()
    claimed = sum(entry.file_size for entry in entries)
    if claimed > len(data) or any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise SourceError(
            f"weights {name}: refused, because its {len(data):,} bytes claim to hold {claimed:,}, "
            "and torch never compresses; save the state dict again, best as safetensors"
        )
    pickles = [entry for entry in entries if entry.filename.endswith("data.pkl")]
    if any(entry.file_size > LARGEST_PICKLE for entry in pickles):
        largest = max(entry.file_size for entry in pickles)
        raise SourceError(
            f"weights {name}: refused, because its pickle has {largest:,} bytes, at most {LARGEST_PICKLE:,} are read; "
            "save it as safetensors"
        )
    try:
        return b"".join(archive.read(entry) for entry in pickles)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, OSError, EOFError) as error:
        raise SourceError(f"weights {name}: not a readable checkpoint ({describe(error)})") from error


def _reserves(pickled: bytes) -> bool:
    """Whether one of the pickles in a checkpoint names a type that is filled to a size given by a number."""
    stream = io.BytesIO(pickled)
    while True:
        try:
            for operation, argument, _ in pickletools.genops(stream):
                if operation.name == "GLOBAL" and argument in RESERVING:
                    return True
        except ValueError:  # the end of the pickles, or of what can be read; torch refuses the latter
            return False
