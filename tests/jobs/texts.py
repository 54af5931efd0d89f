"""A folder of two small language models and their texts, good and bad, and audits of them."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from numpy.typing import NDArray
from pydantic import JsonValue

from pipeline.config.audit_config import merge
from tests.jobs.command import Ended, Json, mad, section, table
from tests.languages import POSITIONS, VOCABULARY, gpt2, llama, save
from tests.languages import table as random_texts

TRUSTED, AUDITED, ROWS_PER_TASK = 60, 23, 8


GPT2, LLAMA = ([{"name": name, "huggingface": name}] for name in ("gpt2", "llama"))


Text = tuple[list[int] | None, int | None, str]


BAD: dict[str, Text] = {
    "too long": (
        [1] * (POSITIONS + 1),
        1,
        f"unreadable: input_ids has {POSITIONS + 1} tokens, the model takes at most {POSITIONS}",
    ),
    "beyond": (
        [1, VOCABULARY],
        1,
        f"unreadable: the token id {VOCABULARY} at position 1 is outside the model's vocabulary, 0 to {VOCABULARY - 1}",
    ),
    "negative": (
        [-7, 1],
        1,
        f"unreadable: the token id -7 at position 0 is outside the model's vocabulary, 0 to {VOCABULARY - 1}",
    ),
    "no completion": ([1, 2, 3], 3, "unreadable: the completion is empty: it starts at 3 of 3 tokens"),
    "no prompt": (
        [1, 2],
        0,
        "unreadable: completion_start is 0, but a completion needs a token before it to be predicted from: 1 or more",
    ),
    "null": (None, 1, "unreadable: input_ids is null"),
    "no start": ([1, 2], None, "unreadable: completion_start is null"),
    "empty": ([], 0, "unreadable: input_ids is empty"),
}


def with_bad(texts: pa.Table, every: int = 3) -> pa.Table:
    """The texts, with a bad one before each `every`-th, of the id `bad: NAME`."""
    rows = texts.to_pylist()
    for number, (name, (ids, start, _)) in enumerate(BAD.items()):
        rows.insert(number * (every + 1), {"id": f"bad: {name}", "input_ids": ids, "completion_start": start})
    return pa.Table.from_pylist(rows, schema=texts.schema)


def prepare_texts(folder: Path) -> None:
    """Fills a folder with two language models and their texts."""
    save(gpt2(), folder / "gpt2")
    save(llama(), folder / "llama")
    trusted, audited = random_texts(TRUSTED, 3, "trusted"), random_texts(AUDITED, 4, "text")
    for name, texts in {
        "trusted": trusted,
        "audited": audited,
        "trusted-bad": with_bad(trusted),
        "audited-bad": with_bad(audited),
    }.items():
        pq.write_table(texts, folder / f"{name}.parquet", row_group_size=7)


def config_of(folder: Path, root: Path, **sections: JsonValue) -> Path:
    """A config of an audit of the two models, in the folder of their texts."""
    models: JsonValue = [{"name": name, "huggingface": name} for name in ("gpt2", "llama")]
    raw: Json = {
        "root": str(root),
        "task": "causal_lm",
        "models": models,
        "data": {"trusted": "trusted.parquet", "audited": "audited.parquet"},
    }
    raw |= {"calibration": {"target": {"fpr": 0.1}}, "run": {"rows_per_task": ROWS_PER_TASK, "batch_size": 5}}
    path = folder / f"{root.name}.yaml"
    path.write_text(yaml.safe_dump(merge(raw, sections)))
    return path


def run(folder: Path, root: Path, **sections: JsonValue) -> Ended:
    """An audit of the two models, or as the sections say."""
    return mad("run", config_of(folder, root, **sections), "--output", "json")


def summary_of(ended: Ended, model: str) -> Json:
    return section(ended.document, "models", model)


def numbers(root: Path, model: str, name: str) -> NDArray[np.float64]:
    return np.array([row[name] for row in table(root, model)], np.float64)
