"""Checkpoints of torch, read without running what they hold, and without reserving memory by what they claim."""

import io
import pickle
import pickletools
import re
import struct
import warnings
import zipfile
from collections.abc import Sequence

import torch
from torch import Tensor

from infra.execution.contract import describe
from pipeline.errors import SourceError
from pipeline.models.weights.foreign_files import foreign_archive
from pipeline.models.weights.state_dicts import StateDict, state_dicts_in

LARGEST_PICKLE = 16 << 20


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


COPIED = "was it copied whole? If so, save it again, best as safetensors"


RESERVING = frozenset({"builtins bytearray", "__builtin__ bytearray"})


UNKNOWN_TYPE = re.compile(r"GLOBAL ([\w.]+)")  # in torch's message


def parse_checkpoint(data: bytes, name: str) -> Sequence[StateDict]:
    """The state dicts in a checkpoint of torch, at least one.

    Raises:
        SourceError: it holds none, or code, or claims more than it holds.
    """
    _refuse_bombs(data, name)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            loaded = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        unknown = UNKNOWN_TYPE.search(str(error))
        held = f"whatever code it holds (here {unknown.group(1)})" if unknown else "whatever code it holds"
        raise SourceError(
            f"weights {name}: refused, because it is a full pickle, and loading one runs {held}; "
            "save the state dict alone, best with safetensors.torch.save_file(model.state_dict(), ...)"
        ) from error
    except UNREADABLE as error:
        raise SourceError(f"weights {name}: not a readable checkpoint ({describe(error)}); {COPIED}") from error
    found = state_dicts_in(loaded)
    if not found:
        raise SourceError(
            f"weights {name}: holds no state dict, which is a mapping of parameter names to tensors"
            f"{_beside_tensors(loaded)}"
        )
    return found


def _beside_tensors(loaded: object) -> str:
    """Why a mapping of tensors is no state dict, or what should have been saved."""
    if not isinstance(loaded, dict) or not any(isinstance(value, Tensor) for value in loaded.values()):
        return "; save that of the model: torch.save(model.state_dict(), ...)"
    others = [f"{key!r} ({type(value).__name__})" for key, value in loaded.items() if not isinstance(value, Tensor)]
    if others:
        return f"; beside its tensors it holds {', '.join(others[:3])}, save the tensors in an entry of their own"
    unnamed = next(key for key in loaded if not isinstance(key, str))
    return f"; its tensors have no names, but keys such as {unnamed!r:.80}; save model.state_dict()"


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
        raise SourceError(f"weights {name}: not a readable checkpoint ({describe(error)}); {COPIED}") from error
    entries = archive.infolist()
    other = foreign_archive([entry.filename for entry in entries])
    if other:
        raise SourceError(f"weights {name}: {other}")
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
        raise SourceError(f"weights {name}: not a readable checkpoint ({describe(error)}); {COPIED}") from error


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
