"""Models in Hugging Face folders: `config.json` and safetensors, and no code but the library's own.

The digest is made from the bytes of `config.json` and of every safetensors file, and from the class that they are
loaded into and the source of its module; of a classifier also from the documents of its processor or tokenizer. The
version of transformers is not part of it: otherwise each upgrade would make the stored rows of all models worthless,
although few change the code of any; what changes in the library's common code can be found by the versions in a run's
record.
"""

import hashlib
import importlib.util
import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from infra.storage.files import digest
from pipeline.data.folders import CONFIG, FolderPlace
from pipeline.errors import SourceError
from pipeline.models.huggingface.config_file import check_config
from pipeline.models.huggingface.folder import check_sizes, weight_files
from pipeline.models.huggingface.heads import Head, check_problem, head_of
from pipeline.models.huggingface.knowledge import knowledge_of
from pipeline.models.huggingface.limits import limits_of
from pipeline.models.huggingface.loaded_weights import check_values, check_weights
from pipeline.models.huggingface.preprocessing import check_preprocessing, preprocessing_documents
from pipeline.models.interface import UNTRAINED, LoadedModel, fixed_seed
from pipeline.models.user_code import user_code
from pipeline.models.weights.faithful import without_number

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

MOST_LAYERS = 10_000

PLAIN = (None, "eager", "sdpa")


def load_folder(place: FolderPlace, task: str) -> LoadedModel:
    """Loads a model from a folder, without the network: on the CPU, float32, in eval mode, without a cache of keys.

    No code of the model's own is run.

    Args:
        place: of the folder.
        task: of the model.

    Raises:
        SourceError: transformers is not installed, or the folder, its config or its weights are unusable.
    """
    folder, name = _found(place)
    files = weight_files(folder, name)
    check_sizes(folder, files, name)
    head = _head(folder, name, task)
    with user_code(f"huggingface {name}"), quiet():
        module = _load(folder, name, head, task)
        check_values(module, files, name)
    return _digested(module, place, head, [_file_digest(file) for file in files])


def untrained_folder(place: FolderPlace, task: str) -> LoadedModel:
    """The model that a folder's config describes, with random weights, in all else as `load_folder`.

    Raises:
        SourceError: transformers is not installed, or the folder or its config is unusable.
    """
    folder, name = _found(place)
    head = _head(folder, name, task)
    with user_code(f"huggingface {name}"), quiet(), fixed_seed():
        described = _config_of(folder, name, head, task)
        _refuse_more_than_held(described, head, folder, name)
        module = _auto(head).from_config(described, trust_remote_code=False).float()
    return _digested(module, place, head, [UNTRAINED])


def _digested(module: "PreTrainedModel", place: FolderPlace, head: Head, weights: Sequence[str]) -> LoadedModel:
    """A model with its digest; `weights` says which they are."""
    folder = place.find()
    module.config.use_cache = False
    code = _file_digest(Path(inspect.getfile(type(module))))
    more = preprocessing_documents(folder, place.name) if head.inputs != "tokens" else []
    documents = [f"{file.name} {_file_digest(file)}" for file in more]
    parts = [_file_digest(folder / CONFIG), *weights, code, type(module).__name__, *documents]
    return _loaded(module, place, head, digest("\n".join(parts).encode()), {type(module).__module__: code})


def folder_shapes(place: FolderPlace, task: str) -> LoadedModel:
    """The model that a folder's config describes, on torch's meta device: shapes alone, whose digest is "".

    Raises:
        SourceError: the folder or its config is unusable.
    """
    folder, name = _found(place)
    head = _head(folder, name, task)
    with user_code(f"huggingface {name}"), quiet():
        described = _config_of(folder, name, head, task)
        layers = _count_layers(described)
        if layers > MOST_LAYERS:
            raise SourceError(
                f"huggingface {name}: {CONFIG} describes {layers:,} layers, at most {MOST_LAYERS:,} are planned "
                "without their weights; is it the right folder?"
            )
        module = _on_meta(described, head).float()
    module.config.use_cache = False
    return _loaded(module, place, head, "", {})


@contextmanager
def quiet() -> Iterator[None]:
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


def _loaded(module: "PreTrainedModel", place: FolderPlace, head: Head, found: str, code: dict[str, str]) -> LoadedModel:
    with user_code(f"huggingface {place.name}: its processor or tokenizer"), quiet():
        known = knowledge_of(module, head, place)
    limits = limits_of(module, place) if head.inputs == "tokens" else None
    lacking = without_number(module) if found else ""
    return LoadedModel(module.eval(), found, code, limits=limits, lacking=lacking, known=known)


def _head(folder: Path, name: str, task: str) -> Head:
    check_config(folder, name)
    check_preprocessing(folder, name)
    return head_of(folder, name, task)


def _found(place: FolderPlace) -> tuple[Path, str]:
    """The folder, and its name in the config."""
    check_installed(place.name)
    return place.find(), place.name


def check_installed(name: str) -> None:
    """Raise SourceError where transformers is not installed."""
    if importlib.util.find_spec("transformers") is None:
        raise SourceError(
            f"huggingface {name}: needs the package transformers, which is not installed; "
            "install it with the extra of madaudit, in a clone: pip install '.[text]'"
        )


def _refuse_more_than_held(config: "PretrainedConfig", head: Head, folder: Path, name: str) -> None:
    """Refuses a config of more parameters than the files have bytes.

    The missing ones would be filled with random numbers, perhaps beyond memory.
    """
    held = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    layers = _count_layers(config)
    if layers > held:
        described = f"{layers:,} layers"
    else:
        parameters = sum(parameter.numel() for parameter in _on_meta(config, head).parameters())
        if parameters <= 2 * held:
            return
        described = f"{parameters:,} parameters"
    raise SourceError(
        f"huggingface {name}: {CONFIG} describes {described}, its files hold {held:,} bytes; "
        "they do not belong together"
    )


def _count_layers(config: "PretrainedConfig") -> int:
    """How many layers or blocks a config describes, of those in one row and those in stages."""
    found = int(getattr(config.get_text_config(), "num_hidden_layers", 0) or 0)
    stages = getattr(config, "depths", None)
    return found + sum(one for one in stages or () if isinstance(one, int))


def _auto(head: Head) -> Any:
    import transformers  # noqa: PLC0415 - of the extra, and slow to import

    return getattr(transformers, head.auto)


def _on_meta(config: "PretrainedConfig", head: Head) -> "PreTrainedModel":
    with torch.device("meta"):
        module: PreTrainedModel = _auto(head).from_config(config, trust_remote_code=False)
    return module


def _config_of(folder: Path, name: str, head: Head, task: str) -> "PretrainedConfig":
    import transformers  # noqa: PLC0415 - of the extra, and slow to import

    config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    if type(config) not in getattr(transformers, head.mapping):
        article = "an" if head.described[0] in "aeiou" else "a"
        raise SourceError(f"huggingface {name}: a model of type {config.model_type} is not {article} {head.described}")
    if head.inputs != "tokens":
        check_problem(config, task, name)
    _attend_plainly(config)
    return config


def _load(folder: Path, name: str, head: Head, task: str) -> "PreTrainedModel":
    config = _config_of(folder, name, head, task)
    _refuse_more_than_held(config, head, folder, name)
    model, found = _auto(head).from_pretrained(
        folder,
        config=config,
        local_files_only=True,
        trust_remote_code=False,
        use_safetensors=True,
        dtype=torch.float32,
        output_loading_info=True,
        ignore_mismatched_sizes=True,
    )
    _check_class(config, head, type(model).__name__, name)
    check_weights(found, model, name)
    return model


def _attend_plainly(config: "PretrainedConfig") -> None:
    """Leaves the choice of attention to the library where the file asks for a faster kernel of the same function."""
    from transformers import PretrainedConfig  # noqa: PLC0415 - of the extra, and slow to import

    parts = [part for part in vars(config).values() if isinstance(part, PretrainedConfig)]
    for part in (*parts, config):
        if part._attn_implementation not in PLAIN:
            part._attn_implementation = None


def _check_class(config: "PretrainedConfig", head: Head, loaded: str, name: str) -> None:
    """Refuses a folder of another architecture: a masked language model would load into a causal one of its family."""
    architectures = config.architectures or [loaded]
    if loaded not in architectures:
        raise SourceError(
            f"huggingface {name}: {CONFIG} says that it is a {', '.join(architectures)}; "
            f"the {head.described} of this type is {loaded}"
        )


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
