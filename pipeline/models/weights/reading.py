"""Weights: untrusted files. Nothing in them is run, and what they claim is checked before memory is reserved for it.

The memory that a file can make a reader reserve is bounded by the file's own size: the length of a safetensors header
is checked before it is parsed, a checkpoint's archive must hold its tensors uncompressed, as torch writes it, and its
pickle may not build objects of a size that it only names.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from infra.errors import StorageError
from infra.storage.files import read_input, size_of
from pipeline.errors import SourceError
from pipeline.models.weights.checkpoint import COPIED, parse_checkpoint
from pipeline.models.weights.foreign_files import foreign
from pipeline.models.weights.mismatches import first_names
from pipeline.models.weights.state_dicts import StateDict

PICKLES = (b"PK", b"\x80")


LARGEST_HEADER = 32 << 20


ALWAYS_FITS = 1 << 30


SMALL = 1 << 20  # bytes that a tensor may repeat its numbers to, whatever the size of its file


def read_weights(name: str, url: str, granted: int) -> bytes:
    """All bytes of a weights file, unless they are more than a worker could hold.

    Args:
        name: of the file, as configured.
        url: of the file.
        granted: bytes of memory of a worker. As float32 tensors, weights take at least half of their file's bytes.

    Raises:
        SourceError: there is no such file, or it is too large.
    """
    if "://" not in url and Path(url).is_dir():
        raise SourceError(f"weights {name}: {_folder(Path(url))}")
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


def _folder(folder: Path) -> str:
    """What to do with a folder in the place of a file."""
    files = sorted(path.name for path in folder.iterdir() if path.is_file())
    if ".metadata" in files and any(name.endswith(".distcp") for name in files):
        return (
            "is a folder of torch.distributed.checkpoint; make one file of it with "
            "torch.distributed.checkpoint.format_utils.dcp_to_torch_save"
        )
    if "config.json" in files:
        return "is a folder, not a file; name the weights in it, or, of a language model, the folder as `huggingface`"
    return f"is a folder, not a file; name the weights in it, files there: {first_names(files) or 'none'}"


def parse_weights(data: bytes, name: str) -> Sequence[StateDict]:
    """The state dicts of a weights file, each tensor plain and on the CPU. Its bytes say what it is, not its name.

    Raises:
        SourceError: it is neither safetensors nor a checkpoint, holds code, claims more than it holds, or holds tensors
            that are not weights.
    """
    if data.startswith(PICKLES) and not _begins_header(data):
        found = parse_checkpoint(data, name)
    elif data[8:9] == b"{" or (name.endswith(".safetensors") and not foreign(data)):
        found = _parse_safetensors(data, name)
    else:
        other = foreign(data) or "neither safetensors nor a state dict that torch.save wrote (.pt, .pth, .ckpt, .bin)"
        raise SourceError(f"weights {name}: {other}")
    faults = [_first_fault(state, len(data)) for state in found]
    sound = [state for state, fault in zip(found, faults, strict=True) if not fault]
    if not sound:
        raise SourceError(f"weights {name}: {faults[0]}")
    return sound


def _first_fault(state: StateDict, held: int) -> str:
    """What is wrong with the first tensor of a file of so many bytes that is not plain; "" if all are."""
    for key, tensor in state.tensors.items():
        if isinstance(tensor, Tensor) and not _is_plain(tensor):
            kind = f"{tensor.dtype}, {tensor.layout}, on {tensor.device}".replace("torch.", "")
            return f"{key!r} is not a plain tensor of numbers ({kind}); save weights dense, real and unquantized"
        if isinstance(tensor, Tensor) and tensor.nbytes > max(held, SMALL):
            claims = f"claims {tensor.nbytes:,} bytes by repeating the numbers of a file of {held:,}"
            return f"{key!r} {claims}; save it contiguous"
    return ""


def _begins_header(data: bytes) -> bool:
    """Whether the first eight bytes are the length of a header: one in 32 lengths begins like a pickle."""
    return data[8:9] == b"{" and int.from_bytes(data[:8], "little") <= LARGEST_HEADER


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


def _parse_safetensors(data: bytes, name: str) -> Sequence[StateDict]:
    check_header(data, f"weights {name}")
    try:
        tensors = safetensors.torch.load(data)
    except (safetensors.SafetensorError, ValueError, RuntimeError) as error:
        raise SourceError(f"weights {name}: not a readable safetensors file ({error}); {COPIED}") from error
    except KeyError as error:
        raise SourceError(
            f"weights {name}: holds tensors of a type that torch does not know ({error}); "
            "save them as float32, float16 or bfloat16"
        ) from error
    metadata = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")]).get("__metadata__") or {}
    return [StateDict(tensors, same={left: kept for left, kept in metadata.items() if kept in tensors})]
