"""Texts without finite gradients, and texts with padding."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from pydantic import JsonValue

from tests.jobs.command import Json, mad, section, table
from tests.jobs.texts import (
    AUDITED,
    TRUSTED,
    config_of,
    run,
)
from tests.languages import POSITIONS, VOCABULARY, gpt2, llama, save
from tests.languages import table as random_texts

LAST = VOCABULARY - 1


@pytest.fixture(scope="module")
def overflowing(text_inputs: Path) -> Path:
    """A model of which one token has no number, and texts of which one in five holds that token."""
    model = llama(tied=False)
    with torch.no_grad():
        model.get_input_embeddings().weight[LAST] = float("inf")
    save(model, text_inputs / "overflowing")
    for name in ("trusted", "audited"):
        rows = pq.read_table(text_inputs / f"{name}.parquet").to_pylist()
        for number, row in enumerate(rows):
            row["input_ids"] = [min(one, LAST - 1) for one in row["input_ids"]]
            if number % 5 == 2:
                row["input_ids"][0] = LAST
        pq.write_table(
            pa.Table.from_pylist(rows, schema=pq.read_table(text_inputs / f"{name}.parquet").schema),
            text_inputs / f"{name}-inf.parquet",
        )
    return text_inputs


def test_gradients_that_are_not_finite_cost_their_own_rows_only(overflowing: Path, tmp_path: Path) -> None:
    models: JsonValue = [{"name": "chat", "huggingface": "overflowing"}]
    ended = run(
        overflowing,
        tmp_path / "root",
        models=models,
        data={"trusted": "trusted-inf.parquet", "audited": "audited-inf.parquet"},
    )
    assert ended.code == 0
    rows = table(tmp_path / "root", "chat")
    assert [row["status"] for row in rows] == ["nonfinite" if number % 5 == 2 else "ok" for number in range(AUDITED)]
    assert all(row["flagged"] for row in rows if row["status"] == "nonfinite")
    assert section(ended.summary, "counts")["nonfinite"] == sum(number % 5 == 2 for number in range(AUDITED))
    calibration = section(ended.summary, "calibration")
    reference, calibrating, filtered = (
        int(str(calibration[name])) for name in ("reference", "calibration", "filtered")
    )
    assert (calibrating, reference + filtered) == (18, 42)
    assert filtered > 0
    histogram = section(ended.summary, "histogram")["calibration"]
    assert isinstance(histogram, list) and sum(int(str(count)) for count in histogram) == calibrating - (12 - filtered)


def test_a_model_without_any_finite_gradient_says_what_to_mend(overflowing: Path, tmp_path: Path) -> None:
    rows = pq.read_table(overflowing / "trusted-inf.parquet").to_pylist()
    for row in rows[3:]:
        row["input_ids"][0] = LAST
    pq.write_table(
        pa.Table.from_pylist(rows, schema=pq.read_table(overflowing / "trusted.parquet").schema),
        overflowing / "hopeless.parquet",
    )
    models: JsonValue = [{"name": "chat", "huggingface": "overflowing"}]
    ended = run(
        overflowing,
        tmp_path / "root",
        models=models,
        data={"trusted": "hopeless.parquet"},
        calibration={"fraction": 0.3},
    )
    text = " ".join((ended.out + ended.err).split())
    assert "trusted samples are not of finite gradient and explain nothing; check the weights" in text
    assert "labelled" not in text


def padded(texts: pa.Table, count: int, by: str) -> pa.Table:
    """The texts with five zeros at their ends; a mask, or labels alone, say which those are, or nothing does."""
    rows = texts.slice(0, count).to_pylist()
    for row in rows:
        ids, start = row["input_ids"][: POSITIONS - 5], min(row["completion_start"], POSITIONS - 6)
        row["input_ids"] = [0] * 5 + ids + [0] * 5 if by == "mask" else ids + [0] * 5
        row["completion_start"] = start + 5 if by == "mask" else start
        if by == "mask":
            row["attention_mask"] = [False] * 5 + [True] * len(ids) + [False] * 5
        if by == "labels":
            row["labels"] = [-100] * row.pop("completion_start") + ids[start:] + [-100] * 5
    return pa.Table.from_pylist(rows)


@pytest.fixture(scope="module")
def padding(text_inputs: Path) -> Path:
    """Texts with padding in several forms, and a model that says which token pads its texts."""
    save(gpt2(), text_inputs / "pads")
    described = json.loads((text_inputs / "pads/config.json").read_text())
    (text_inputs / "pads/config.json").write_text(json.dumps({**described, "pad_token_id": 0}))
    for name, texts in (
        ("trusted", random_texts(TRUSTED, 3, "trusted")),
        ("audited", random_texts(AUDITED, 4, "text")),
    ):
        for by in ("mask", "labels", "nothing"):
            pq.write_table(padded(texts, len(texts), by), text_inputs / f"{name}-by-{by}.parquet")
    return text_inputs


def test_a_plan_says_what_is_read_of_texts_and_leaves_out_what_looks_padded(padding: Path, tmp_path: Path) -> None:
    models: JsonValue = [{"name": "chat", "huggingface": "pads"}]
    data: Json = {"trusted": "trusted-by-mask.parquet", "audited": "audited-by-*.parquet"}
    path = config_of(padding, tmp_path / "root", models=models, data=data)
    ended = mad("plan", path)
    assert ended.code == 1
    assert (
        "chat: texts of trusted-by-mask.parquet, audited-by-mask.parquet are read from input_ids, completion_start, "
        "attention_mask\nchat: texts of audited-by-labels.parquet are read from input_ids, labels\n"
    ) in ended.out
    assert (
        f"chat: file left out: audited-by-nothing.parquet: looks padded: {AUDITED} of the first {AUDITED} texts begin "
        "or end with the token 0 repeated; add a column attention_mask, or, if"
    ) in " ".join(ended.out.split())
    planned = section(mad("plan", path, "--output", "json").document, "models", "chat")
    assert planned["inputs"] == {
        "trusted-by-mask.parquet": {name: name for name in ("input_ids", "completion_start", "attention_mask")},
        "audited-by-mask.parquet": {name: name for name in ("input_ids", "completion_start", "attention_mask")},
        "audited-by-labels.parquet": {name: name for name in ("input_ids", "labels")},
    }


def test_a_trusted_set_that_looks_padded_is_refused(padding: Path, tmp_path: Path) -> None:
    models: JsonValue = [{"name": "chat", "huggingface": "pads"}]
    data: Json = {"trusted": "trusted-by-nothing.parquet"}
    ended = mad("plan", config_of(padding, tmp_path / "root", models=models, data=data))
    assert ended.code == 2
    assert "trusted-by-nothing.parquet: none of its first 60 texts can be read; the first: looks padded: " in " ".join(
        (ended.out + ended.err).split()
    )
