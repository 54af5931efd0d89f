"""A config for a folder, by what lies in it: a model of transformers, or an adapter of PEFT."""

import json
import re
from dataclasses import dataclass
from pathlib import Path

from pydantic import JsonValue

from infra.execution.contract import describe
from pipeline.config.schema import RESERVED_NAMES
from pipeline.data.folders import ADAPTER, CONFIG, IMAGE_PROCESSOR, PROCESSOR, TOKENS
from pipeline.errors import SourceError
from pipeline.models.huggingface.folder import check_size
from pipeline.models.huggingface.heads import PROBLEMS, Head, architectures, named_head
from pipeline.models.huggingface.loading import check_installed

COLUMNS = {
    "images": "{image: image, label: label}    # encoded bytes, or a Hugging Face image struct; label is optional",
    "texts": "{text: text, label: label}    # the folder's tokenizer makes tokens of the texts; label is optional",
    "ids": "{input_ids: input_ids, label: label}    # token ids: the folder has no tokenizer.json; label is optional",
    "tokens": "{input_ids: input_ids, completion_start: completion_start}    # token ids, and where completions begin",
    "audio": "{inputs: {input_values: input_values}, label: label}    # the argument of the model, and its column",
}

PREPROCESS = "  preprocess: {mean: [0.5, 0.5, 0.5], std: [0.5, 0.5, 0.5], size: 224}    # as the model was trained\n"

ADAPTED = {"CAUSAL_LM": ("causal_lm", "tokens"), "SEQ_CLS": ("classification", "texts")}


@dataclass(frozen=True)
class _Suggestion:
    """What a config says of a model: its entry, its task, what it is in words, and lines about its samples."""

    entry: str
    task: str
    what: str
    columns: str
    preprocess: str = ""


def suggested_config(folder: Path) -> str:
    """The YAML of a config for a folder, whose data are to be filled in.

    Raises:
        SourceError: it holds neither a model nor an adapter, or its config is unusable.
    """
    check_installed(str(folder))
    if (folder / ADAPTER).is_file():
        found = _of_adapter(folder)
    elif (folder / CONFIG).is_file():
        found = _of_model(folder)
    else:
        here = ", ".join(sorted(file.name for file in folder.iterdir())[:8]) if folder.is_dir() else "no such folder"
        raise SourceError(
            f"{folder}: holds neither {CONFIG} nor {ADAPTER} ({here}); name a folder that save_pretrained wrote, or "
            "leave out --from for an example of other models"
        )
    return (
        f"# An audit of {found.what}.\n"
        "# Fill in the data; relative paths count from this file's folder. All other keys have defaults.\n"
        "\n"
        "root: audits    # where everything is kept, run after run\n"
        "\n"
        "models:\n"
        f"  - name: {_name(folder)}\n"
        f"{found.entry}"
        "\n"
        f"task: {found.task}\n"
        "\n"
        "data:\n"
        "  trusted: trusted.parquet    # samples known to be normal, at least 330\n"
        "  audited: inputs/*.parquet    # what to audit\n"
        f"  columns: {found.columns}\n"
        f"{found.preprocess}"
    )


def _of_model(folder: Path) -> _Suggestion:
    head = named_head(folder, str(folder))
    named = ", ".join(architectures(folder, str(folder))) or "a model that names no architecture"
    if head is None:
        raise SourceError(
            f"{folder}: {CONFIG} says that it is {_plain(named)}, which is neither a causal language model nor a "
            "classifier of images, texts or audio; write a config with an architecture of your own (`mad init`)"
        )
    settings = _settings(folder / CONFIG, folder)
    columns, preprocess = COLUMNS[head.inputs], ""
    if head.inputs == "texts" and not (folder / TOKENS).is_file():
        columns = COLUMNS["ids"]
    if head.inputs == "images" and not any((folder / name).is_file() for name in (IMAGE_PROCESSOR, PROCESSOR)):
        preprocess = PREPROCESS
    what = f"{_plain(named)}, {_article(head.described)}"
    entry = f"    huggingface: {json.dumps(str(folder))}\n"
    return _Suggestion(entry, _task(head, settings), what, columns, preprocess)


def _of_adapter(folder: Path) -> _Suggestion:
    settings = _settings(folder / ADAPTER, folder)
    task, inputs = ADAPTED.get(str(settings.get("task_type")), ADAPTED["CAUSAL_LM"])
    base = _plain(str(settings.get("base_model_name_or_path") or "nothing"))
    entry = (
        f"    huggingface: base    # the folder of its base, which the adapter calls {base}\n"
        f"    adapter: {json.dumps(str(folder))}\n"
    )
    return _Suggestion(entry, task, "an adapter, on a base that you name", COLUMNS[inputs])


def _task(head: Head, settings: dict[str, JsonValue]) -> str:
    if head.inputs == "tokens":
        return "causal_lm"
    names, number = settings.get("id2label"), settings.get("num_labels")
    outputs = len(names) if isinstance(names, dict) else number if isinstance(number, int) else 2
    return PROBLEMS.get(str(settings.get("problem_type")), ("binary" if outputs == 1 else "classification",))[0]


def _settings(document: Path, folder: Path) -> dict[str, JsonValue]:
    check_size(document, str(folder))
    try:
        found = json.loads(document.read_bytes())
    except (ValueError, RecursionError) as error:
        raise SourceError(f"{folder}: {document.name} is not readable ({describe(error)})") from error
    if not isinstance(found, dict):
        raise SourceError(f"{folder}: {document.name} is not readable (no JSON object)")
    return found


def _name(folder: Path) -> str:
    """A name that a model may have, after its folder's; quoted, as YAML takes some names for numbers."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", folder.resolve().name).lstrip("._-")[:100] or "model"
    return json.dumps(f"model-{name}"[:100] if name.lower() in RESERVED_NAMES else name)


def _plain(text: str) -> str:
    """A text of the folder's in one line of a comment."""
    return re.sub(r"[^\x20-\x7e]+", " ", text)[:200]


def _article(described: str) -> str:
    return f"{'an' if described[0] in 'aeiou' else 'a'} {described}"
