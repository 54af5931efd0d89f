"""Causal language models in Hugging Face folders: `config.json` and safetensors, and no code but the library's own.

The digest is made from the bytes of `config.json` and of every safetensors file, and from the class that they are
loaded into and the source of its module. The version of transformers is not part of it: otherwise each upgrade would
make the stored rows of all models worthless, although few change the code of any; what changes in the library's common
code can be found by the versions in a run's record.
"""

import hashlib
import importlib.util
import inspect
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from infra.storage.files import digest
from pipeline.config.audit_config import AuditConfig
from pipeline.data.texts.rows import TextLimits
from pipeline.errors import SourceError
from pipeline.models.huggingface.config_file import check_config
from pipeline.models.huggingface.folder import CONFIG, check_sizes, find_folder, types_of, weight_files
from pipeline.models.huggingface.padding import padding_tokens
from pipeline.models.user_code import user_code
from pipeline.models.weights.faithful import SCALED
from pipeline.models.weights.fitting import names_left_out
from pipeline.models.weights.mismatches import name_some

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel


MOST_LAYERS = 10_000


PLAIN = (None, "eager", "sdpa")


Mismatch = tuple[str, Sequence[int], Sequence[int]]


@dataclass(frozen=True)
class CausalLM:
    """A causal language model on the CPU, float32, in eval mode, without a cache of keys and values.

    `code`: the digest of the module of its class, by name.
    """

    module: nn.Module
    digest: str
    limits: TextLimits
    code: Mapping[str, str]


def load_causal_lm(config: AuditConfig, name: str) -> CausalLM:
    """Loads a model from a folder, without the network, or by its id on the hub. No code of the model's own is run.

    Raises:
        SourceError: transformers is not installed, or the folder, its config or its weights are unusable.
    """
    _check_installed(name)
    folder = find_folder(config, name)
    files = weight_files(folder, name)
    check_sizes(folder, files, name)
    check_config(folder, name)
    with user_code(f"huggingface {name}"), _quiet():
        module = _load(folder, name)
        _check_values(module, files, name)
    module.config.use_cache = False
    code = Path(inspect.getfile(type(module)))
    written = [_file_digest(file) for file in (folder / CONFIG, *files, code)]
    parts = [*written, type(module).__name__]
    limits = _limits(module, folder)
    return CausalLM(module.eval(), digest("\n".join(parts).encode()), limits, {type(module).__module__: written[-1]})


def causal_lm_shapes(config: AuditConfig, name: str) -> CausalLM:
    """The model that a folder's config describes, on torch's meta device: shapes alone, whose digest is "".

    Raises:
        SourceError: the folder or its config is unusable.
    """
    _check_installed(name)
    folder = find_folder(config, name)
    check_config(folder, name)
    with user_code(f"huggingface {name}"), _quiet():
        described = _config_of(folder, name)
        layers = int(getattr(described.get_text_config(), "num_hidden_layers", 0) or 0)
        if layers > MOST_LAYERS:
            raise SourceError(
                f"huggingface {name}: {CONFIG} describes {layers:,} layers, at most {MOST_LAYERS:,} are planned "
                "without their weights; is it the right folder?"
            )
        module = _on_meta(described).float()
    module.config.use_cache = False
    return CausalLM(module.eval(), "", _limits(module, folder), {})


def _check_installed(name: str) -> None:
    if importlib.util.find_spec("transformers") is None:
        raise SourceError(
            f"huggingface {name}: needs the package transformers, which is not installed; "
            "install it with the extra of madaudit, in a clone: pip install '.[text]'"
        )


def _limits(module: "PreTrainedModel", folder: Path) -> TextLimits:
    text = module.config.get_text_config()
    vocabulary = int(text.vocab_size)
    padding = padding_tokens([module.config, text, getattr(module, "generation_config", None)], folder, vocabulary)
    return TextLimits(vocabulary, getattr(text, "max_position_embeddings", None), padding)


def _refuse_more_than_held(config: "PretrainedConfig", folder: Path, name: str) -> None:
    """Refuses a config of more parameters than the files have bytes.

    The missing ones would be filled with random numbers, perhaps beyond memory.
    """
    held = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    layers = int(getattr(config.get_text_config(), "num_hidden_layers", 0) or 0)
    if layers > held:
        described = f"{layers:,} layers"
    else:
        parameters = _count_parameters(config)
        if parameters <= 2 * held:
            return
        described = f"{parameters:,} parameters"
    raise SourceError(
        f"huggingface {name}: {CONFIG} describes {described}, its files hold {held:,} bytes; "
        "they do not belong together"
    )


def _count_parameters(config: "PretrainedConfig") -> int:
    return sum(parameter.numel() for parameter in _on_meta(config).parameters())


def _on_meta(config: "PretrainedConfig") -> "PreTrainedModel":
    from transformers import AutoModelForCausalLM  # noqa: PLC0415 - of the extra, and slow to import

    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config, trust_remote_code=False)


def _config_of(folder: Path, name: str) -> "PretrainedConfig":
    # An extra, and slow to import.
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig  # noqa: PLC0415

    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise SourceError(f"huggingface {name}: a model of type {config.model_type} is not a causal language model")
    _attend_plainly(config)
    return config


def _load(folder: Path, name: str) -> "PreTrainedModel":
    from transformers import AutoModelForCausalLM  # noqa: PLC0415 - of the extra, and slow to import

    config = _config_of(folder, name)
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
    _check_weights(found, model, name)
    return model


def _attend_plainly(config: "PretrainedConfig") -> None:
    """Leaves the choice of attention to the library where the file asks for a faster kernel of the same function."""
    from transformers import PretrainedConfig  # noqa: PLC0415 - of the extra, and slow to import

    parts = [part for part in vars(config).values() if isinstance(part, PretrainedConfig)]
    for part in (*parts, config):
        if part._attn_implementation not in PLAIN:
            part._attn_implementation = None


def _check_values(module: nn.Module, files: Sequence[Path], name: str) -> None:
    """Refuses parameters that are not what their file holds.

    transformers makes floats of whatever the files hold, so that int8 kernels lose the scale that gives them meaning.
    """
    own, base = module.state_dict(), f"{module.base_model_prefix}."
    types = {key: kind for key, kind in types_of(files).items() if kind not in ("F64", "F32", "F16", "BF16")}
    left_out = set(names_left_out(module, types))
    quantized = []
    for key, kind in types.items():
        held = next((own[spelling] for spelling in (key, base + key, key.removeprefix(base)) if spelling in own), None)
        if key not in left_out and (held is None or held.is_floating_point()):
            quantized.append(f"{key} ({kind} in the file)")
    if quantized:
        raise SourceError(f"huggingface {name}: {name_some({'quantized': quantized})}; {SCALED}")


def _check_class(config: "PretrainedConfig", loaded: str, name: str) -> None:
    """Refuses a folder of another architecture: a masked language model would load into a causal one of its family."""
    architectures = config.architectures or [loaded]
    if loaded not in architectures:
        raise SourceError(
            f"huggingface {name}: {CONFIG} says that it is a {', '.join(architectures)}; "
            f"the causal language model of this type is {loaded}"
        )


def _check_weights(
    found: Mapping[str, Collection[str] | Collection[Mismatch]], model: "PreTrainedModel", name: str
) -> None:
    """Refuses missing and unknown weights, which transformers would fill with random numbers or drop.

    Tied heads do not count as missing, nor as unknown what the model does not keep in its weights.
    """
    unexpected = [str(key) for key in found["unexpected_keys"]]
    left_out = names_left_out(model, unexpected)
    shapes = [
        key if isinstance(key, str) else f"{key[0]} ({tuple(key[1])} in the file, {tuple(key[2])} in the model)"
        for key in found["mismatched_keys"]
    ]
    complaints = {
        "missing in the files": sorted(map(str, found["missing_keys"])),
        "unknown to the model": sorted(key for key in unexpected if key not in left_out),
        "of another shape": shapes,
    }
    lines = name_some(complaints)
    if lines:
        raise SourceError(
            f"huggingface {name}: the weights do not fit the {type(model).__name__} of its {CONFIG}: {lines}"
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """Silences the progress bars and logs of transformers; what it would say comes as one error instead."""
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
