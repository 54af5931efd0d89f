"""Causal language models in Hugging Face folders: `config.json` and safetensors, with the library's own code and no other.

The digest is made of the bytes of `config.json` and of every safetensors file, and of the class that they are loaded into. The
version of transformers is not part of it: an upgrade of a library would make every stored row of every model worthless, while it
changes none in all but a few cases, which the run's record of versions lets one find.
"""

import hashlib
import importlib.util
import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from infra.execution.contract import describe
from infra.storage.files import digest
from pipeline.config.audit_config import AuditConfig
from pipeline.data.texts import TextLimits
from pipeline.errors import SourceError
from pipeline.models.user_code import user_code
from pipeline.models.weights import LARGEST_HEADER, check_header

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel


CONFIG, WEIGHTS, INDEX, ADAPTER = (
    "config.json",
    "model.safetensors",
    "model.safetensors.index.json",
    "adapter_config.json",
)


PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.h5", "*.msgpack")


Mismatch = tuple[str, Sequence[int], Sequence[int]]


HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


@dataclass(frozen=True)
class CausalLM:
    """A causal language model on the CPU, float32, in eval mode, without a cache of keys and values."""

    module: nn.Module
    digest: str
    limits: TextLimits


def load_causal_lm(config: AuditConfig, name: str) -> CausalLM:
    """Loads a model from a folder, without the network, or by its id on the hub. No code of the model's own is run.

    Raises:
        SourceError: transformers is not installed, or saying what is wrong with the folder, its config or its weights.
    """
    if importlib.util.find_spec("transformers") is None:
        raise SourceError(
            f"huggingface {name}: needs the package transformers, which is not installed; install mad with its extra, from a clone: pip install '.[text]'"
        )
    folder = _folder(config, name)
    files = _weights(folder, name)
    _refuse_claims(folder, files, name)
    with user_code(f"huggingface {name}"), _quiet():
        module = _load(folder, name)
    module.config.use_cache = False
    parts = [_file_digest(folder / CONFIG), *(_file_digest(file) for file in files), type(module).__name__]
    text = module.config.get_text_config()
    limits = TextLimits(int(text.vocab_size), getattr(text, "max_position_embeddings", None))
    return CausalLM(module.eval(), digest("\n".join(parts).encode()), limits)


def _folder(config: AuditConfig, name: str) -> Path:
    if "://" in name:
        raise SourceError(
            f"huggingface {name}: expected a folder of this machine or an id on the hub; copy the folder here"
        )
    folder = Path(config.locate(name))
    if folder.is_dir():
        return folder
    if folder.exists():
        raise SourceError(
            f"huggingface {name}: is a file; name the folder that holds {CONFIG} and the safetensors files"
        )
    if not HUB_ID.fullmatch(name):
        raise SourceError(f"huggingface {name}: no such folder ({folder})")
    return _from_hub(name, folder)


def _from_hub(name: str, folder: Path) -> Path:
    from huggingface_hub import snapshot_download  # noqa: PLC0415 - of the extra, and slow to import

    try:
        return Path(snapshot_download(name, allow_patterns=[CONFIG, WEIGHTS, INDEX, "model-*.safetensors"]))
    except (OSError, ValueError, RuntimeError) as error:
        raise SourceError(
            f"huggingface {name}: no such folder ({folder}), and the hub gave no model of this id ({describe(error)})"
        ) from error


def _weights(folder: Path, name: str) -> list[Path]:
    """The safetensors files that make up the model, sorted."""
    if (folder / ADAPTER).is_file():
        raise SourceError(
            f"huggingface {name}: holds an adapter ({ADAPTER}), whose base is elsewhere; merge the two and save the whole model"
        )
    if not (folder / CONFIG).is_file():
        raise SourceError(f"huggingface {name}: has no {CONFIG}; name the folder that model.save_pretrained wrote")
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    if (folder / INDEX).is_file():
        return _shards(folder, name)
    pickles = sorted(file.name for pattern in PICKLES for file in folder.glob(pattern))
    if pickles:
        raise SourceError(
            f"huggingface {name}: refused, because its weights are no safetensors but {', '.join(pickles[:3])}, and a pickle runs whatever code it holds; "
            "convert it with model.save_pretrained(folder, safe_serialization=True)"
        )
    here = ", ".join(sorted(file.name for file in folder.iterdir())[:8])
    raise SourceError(f"huggingface {name}: has neither {WEIGHTS} nor {INDEX}; files there: {here}")


def _refuse_claims(folder: Path, files: Sequence[Path], name: str) -> None:
    """Refuses documents that are no documents, and headers of weights that claim too much, before a library parses them."""
    for document in (folder / CONFIG, folder / INDEX):
        size = document.stat().st_size if document.is_file() else 0
        if size > LARGEST_HEADER:
            raise SourceError(
                f"huggingface {name}: {document.name} has {size:,} bytes, at most {LARGEST_HEADER:,} are read; is it the right folder?"
            )
    for path in files:
        with path.open("rb") as file:
            check_header(file.read(8), f"huggingface {name}: {path.name}")


def _refuse_more_than_held(config: "PretrainedConfig", folder: Path, name: str) -> None:
    """Refuses a config of more parameters than the files have bytes, which would be filled with random numbers, perhaps beyond memory."""
    from transformers import AutoModelForCausalLM  # noqa: PLC0415 - of the extra, and slow to import

    held = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    layers = int(getattr(config.get_text_config(), "num_hidden_layers", 0) or 0)
    if layers <= held:
        with torch.device("meta"):
            described = sum(
                parameter.numel()
                for parameter in AutoModelForCausalLM.from_config(config, trust_remote_code=False).parameters()
            )
        if described <= 2 * held:
            return
        raise SourceError(
            f"huggingface {name}: {CONFIG} describes {described:,} parameters, its files hold {held:,} bytes; they do not belong together"
        )
    raise SourceError(
        f"huggingface {name}: {CONFIG} describes {layers:,} layers, its files hold {held:,} bytes; they do not belong together"
    )


def _shards(folder: Path, name: str) -> list[Path]:
    try:
        shards = sorted(set(json.loads((folder / INDEX).read_bytes())["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise SourceError(f"huggingface {name}: {INDEX} is not readable ({describe(error)})") from error
    foreign = [shard for shard in shards if not shard.endswith(".safetensors") or Path(shard).name != shard]
    missing = [shard for shard in shards if not (folder / shard).is_file()]
    if foreign or missing:
        what = (
            f"names {foreign[0]}, which is no safetensors file of this folder"
            if foreign
            else f"names {len(missing)} files that are not there: {missing[0]}"
        )
        raise SourceError(f"huggingface {name}: {INDEX} {what}")
    return [folder / shard for shard in shards]


def _load(folder: Path, name: str) -> "PreTrainedModel":
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig, AutoModelForCausalLM  # noqa: PLC0415 - of the extra, and slow to import

    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise SourceError(f"huggingface {name}: a model of type {config.model_type} is not a causal language model")
    _refuse_more_than_held(config, folder, name)
    model, found = AutoModelForCausalLM.from_pretrained(
        folder,
        config=config,
        local_files_only=True,
        trust_remote_code=False,
        use_safetensors=True,
        dtype=torch.float32,
        output_loading_info=True,
        ignore_mismatched_sizes=True,
    )
    _check_class(config, type(model).__name__, name)
    _check_weights(found, type(model).__name__, name)
    return model


def _check_class(config: "PretrainedConfig", loaded: str, name: str) -> None:
    """A masked language model or a bare trunk would load into a causal one of its family; what the folder says it is decides."""
    architectures = config.architectures or [loaded]
    if loaded not in architectures:
        raise SourceError(
            f"huggingface {name}: {CONFIG} says that it is a {', '.join(architectures)}; the causal language model of this type is {loaded}"
        )


def _check_weights(found: Mapping[str, Collection[str] | Collection[Mismatch]], loaded: str, name: str) -> None:
    """Transformers fills what is missing with random numbers and drops what it does not know; both are refused. Tied heads count as there."""
    shapes = [
        key if isinstance(key, str) else f"{key[0]} ({tuple(key[1])} in the file, {tuple(key[2])} in the model)"
        for key in found["mismatched_keys"]
    ]
    complaints = {
        "missing in the files": sorted(map(str, found["missing_keys"])),
        "unknown to the model": sorted(map(str, found["unexpected_keys"])),
        "of another shape": shapes,
    }
    lines = [
        f"{len(keys)} {what}: {', '.join(keys[:3])}{', ...' if len(keys) > 3 else ''}"
        for what, keys in complaints.items()
        if keys
    ]
    if lines:
        raise SourceError(
            f"huggingface {name}: the weights do not fit the {loaded} of its {CONFIG}: {'; '.join(lines)}"
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """Transformers neither draws bars nor logs inside: what it would say comes as one error instead."""
    from transformers.utils import logging  # noqa: PLC0415 - of the extra, and slow to import

    verbosity, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bar:
            logging.enable_progress_bar()


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
