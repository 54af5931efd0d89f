"""The documents of a folder that say how its model's inputs are made; they choose no code and no other file."""

import json
from collections.abc import Iterator
from pathlib import Path

from pydantic import JsonValue

from infra.execution.contract import describe
from pipeline.data.folders import DOCUMENTS, IMAGE_PROCESSOR, PROCESSOR, TOKENIZER
from pipeline.errors import SourceError
from pipeline.inputs.recipes.library import LibraryRecipe, read_recipe
from pipeline.models.huggingface.folder import check_size

CODE = ("auto_map", "trust_remote_code", "custom_pipelines", "custom_generate")


def preprocessing_documents(folder: Path, name: str) -> list[Path]:
    """Those that are there, each small enough to be read.

    Raises:
        SourceError: one is too large.
    """
    found = [folder / document for document in DOCUMENTS if (folder / document).is_file()]
    for document in found:
        check_size(document, name)
    return found


def check_preprocessing(folder: Path, name: str) -> None:
    """Refuses documents that choose code, or files elsewhere than in the folder.

    Raises:
        SourceError: one does, or is no JSON object; naming the key.
    """
    for document in preprocessing_documents(folder, name):
        if document.name in (IMAGE_PROCESSOR, PROCESSOR, TOKENIZER):
            for key, value in _settings(_parsed(document, name)):
                _check(document.name, key, value, name)


def recipe_of(folder: Path) -> LibraryRecipe | None:
    """How images become inputs by the folder's own processor; None where it has none. Raises as `read_recipe`."""
    if (folder / IMAGE_PROCESSOR).is_file() or (folder / PROCESSOR).is_file():
        return read_recipe(folder)
    return None


def _check(document: str, key: str, value: JsonValue, name: str) -> None:
    if key in CODE and value:
        raise SourceError(
            f"huggingface {name}: its {document} names code of its own ({key}: {value!r:.100}); no code but that of "
            "transformers is run, so remove the key if the library's own class does the same"
        )
    if key.endswith(("_file", "_files", "_filename")):
        for file in value if isinstance(value, list) else [value]:
            if isinstance(file, str) and Path(file).name != file:
                raise SourceError(
                    f"huggingface {name}: its {document} names a file elsewhere ({key}: {file!r}), of which the "
                    "model's digest would not know; put the file into the folder, and name it without a path"
                )


def _parsed(document: Path, name: str) -> JsonValue:
    try:
        found: JsonValue = json.loads(document.read_bytes())
    except (ValueError, RecursionError) as error:
        raise SourceError(f"huggingface {name}: {document.name} is not readable ({describe(error)})") from error
    if not isinstance(found, dict):
        raise SourceError(f"huggingface {name}: {document.name} is not readable (no JSON object)")
    return found


def _settings(document: JsonValue) -> Iterator[tuple[str, JsonValue]]:
    """Every setting of a document and of the mappings in it."""
    for key, value in document.items() if isinstance(document, dict) else ():
        yield key, value
        yield from _settings(value)
