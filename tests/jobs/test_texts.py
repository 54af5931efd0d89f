"""Audits of language models from the command line: a row for every text, statuses, pages, two tasks in one audit."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from numpy.typing import NDArray
from pydantic import JsonValue

from pipeline.config.audit_config import merge
from tests.jobs.command import Ended, Json, mad, section, table, tasks
from tests.jobs.workshop import small_config
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


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of two language models and their texts."""
    folder = tmp_path_factory.mktemp("texts")
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
    return folder


def config_of(place: Path, root: Path, **sections: JsonValue) -> Path:
    """A config of an audit of the two models, in the folder of their texts."""
    models: JsonValue = [{"name": name, "huggingface": name} for name in ("gpt2", "llama")]
    raw: Json = {
        "root": str(root),
        "task": "causal_lm",
        "models": models,
        "data": {"trusted": "trusted.parquet", "audited": "audited.parquet"},
    }
    raw |= {"calibration": {"target": {"fpr": 0.1}}, "run": {"rows_per_task": ROWS_PER_TASK, "batch_size": 5}}
    path = place / f"{root.name}.yaml"
    path.write_text(yaml.safe_dump(merge(raw, sections)))
    return path


def run(place: Path, root: Path, **sections: JsonValue) -> Ended:
    return mad("run", config_of(place, root, **sections), "--output", "json")


@dataclass(frozen=True)
class Audited:
    """An audit of good texts, and one with bad ones among trusted and audited, run twice."""

    root: Path
    good: Ended
    bad: Ended
    again: Ended


@pytest.fixture(scope="module")
def audit(place: Path, tmp_path_factory: pytest.TempPathFactory) -> Audited:
    root = tmp_path_factory.mktemp("roots")
    bad: Json = {"trusted": "trusted-bad.parquet", "audited": "audited-bad.parquet"}
    return Audited(root, run(place, root / "good"), *(run(place, root / "bad", data=bad) for _ in range(2)))


def summary_of(ended: Ended, model: str) -> Json:
    return section(ended.document, "models", model)


MODELS = pytest.mark.parametrize("model", ["gpt2", "llama"])


@MODELS
def test_a_text_has_no_class_and_all_else(audit: Audited, model: str) -> None:
    assert audit.good.code == 0
    rows = table(audit.root / "good", model)
    assert [row["sample_id"] for row in rows] == [f"text-{number:03d}" for number in range(AUDITED)]
    for row in rows:
        assert (row["status"], row["prediction"], row["mechanism"]) == ("ok", -1, -1)
        assert 0 < float(str(row["confidence"])) < 1
        assert -1.001 <= float(str(row["score"])) <= 1.001
        assert isinstance(row["top_trusted"], list) and len(row["top_trusted"]) == 10
        assert isinstance(row["layer_scores"], list) and len(row["layer_scores"]) == (9 if model == "gpt2" else 15)
    assert len({row["score"] for row in rows}) == AUDITED


@MODELS
def test_a_summary_has_no_classes_and_says_what_was_done(audit: Audited, model: str) -> None:
    summary = summary_of(audit.good, model)
    assert (summary["classes"], summary["evaluation"], summary["task"]) == ([], None, "causal_lm")
    assert section(summary, "settings")["measurement"] == "token_margin"
    assert section(summary, "settings", "score")["kind"] == "top_coupling"
    assert summary["warnings"] == []
    layers = section(summary, "layers")
    assert (layers["fallback"], layers["not_covered"]) == ([], {})
    calibration = section(summary, "calibration")
    assert [calibration[name] for name in ("reference", "calibration", "filtered", "unreadable")] == [42, 18, 0, 0]


@MODELS
def test_a_bad_text_says_why_and_has_no_score(audit: Audited, model: str) -> None:
    assert audit.bad.code == 0
    rows = table(audit.root / "bad", model)
    assert len(rows) == AUDITED + len(BAD)
    found = {str(row["sample_id"]): row for row in rows if row["status"] != "ok"}
    assert {name: row["status"] for name, row in found.items()} == {
        f"bad: {name}": status for name, (_, _, status) in BAD.items()
    }
    for row in found.values():
        assert [row[name] for name in ("score", "p_value", "q_value", "confidence", "leverage", "gradient_norm")] == [
            None
        ] * 6
        assert (row["prediction"], row["flagged"], row["top_trusted"], row["layer_scores"]) == (-1, False, [], [])
    counts, calibration = (
        section(summary_of(audit.bad, model), "counts"),
        section(summary_of(audit.bad, model), "calibration"),
    )
    assert (counts["unreadable"], counts["audited"]) == (len(BAD), AUDITED + len(BAD))
    assert [calibration[name] for name in ("reference", "calibration", "filtered", "unreadable")] == [
        42,
        18,
        0,
        len(BAD),
    ]


@MODELS
def test_the_other_texts_are_as_if_the_bad_ones_were_not_there(audit: Audited, model: str) -> None:
    good = table(audit.root / "good", model)
    others = [row for row in table(audit.root / "bad", model) if row["status"] == "ok"]
    for name, tolerance in (("sample_id", 0), ("score", 1e-5), ("p_value", 0), ("confidence", 1e-5), ("flagged", 0)):
        assert [row[name] for row in others] == (
            pytest.approx([row[name] for row in good], abs=tolerance) if tolerance else [row[name] for row in good]
        )


def test_a_second_run_tries_bad_texts_again_and_nothing_else(audit: Audited) -> None:
    retried = len({4 * number // ROWS_PER_TASK for number in range(len(BAD))})
    for model in ("gpt2", "llama"):
        done = tasks(summary_of(audit.again, model))
        assert done["gradients"] == (
            2 * retried,
            -(-(TRUSTED + len(BAD)) // ROWS_PER_TASK) - retried + -(-(AUDITED + len(BAD)) // ROWS_PER_TASK) - retried,
        )
        assert [done[stage][0] for stage in ("curvature", "scoring", "reporting")] == [0, 0, 0]
        assert summary_of(audit.again, model)["same_as"] == audit.bad.document["run_id"]


def test_pages_of_texts_have_no_pictures_and_no_classes(audit: Audited) -> None:
    flagged = [model for model in ("gpt2", "llama") if section(summary_of(audit.bad, model), "counts")["flagged"]]
    for model in ("gpt2", "llama"):
        page = (audit.root / "bad" / "report" / f"{model}.html").read_text()
        for absent in (
            "no image",
            "<img",
            "By predicted class",
            "No class was predicted",
            "data.preprocess",
            "<dt>class</dt>",
        ):
            assert absent not in page
        assert ("<dt>confidence</dt>" in page) == (model in flagged)
    assert "gpt2" in mad("report", audit.root / "bad").out


def numbers(root: Path, model: str, name: str) -> NDArray[np.float64]:
    return np.array([row[name] for row in table(root, model)], np.float64)


def test_scores_do_not_depend_on_the_batch_or_on_the_memory_for_one(
    place: Path, audit: Audited, tmp_path: Path
) -> None:
    settings: dict[str, Json] = {"one": {"batch_size": 1}, "many": {"batch_size": 256, "rows_per_task": 64}}
    for name, settled in settings.items():
        assert run(place, tmp_path / name, run=settled).code == 0
        for model in ("gpt2", "llama"):
            for column in ("score", "confidence", "p_value", "leverage"):
                expected = numbers(audit.root / "good", model, column)
                np.testing.assert_allclose(
                    numbers(tmp_path / name, model, column),
                    expected,
                    rtol=1e-5 if column == "leverage" else 0,
                    atol=1e-5,
                )


def test_a_text_scores_the_same_whatever_its_neighbours_are(place: Path, audit: Audited, tmp_path: Path) -> None:
    texts = pq.read_table(place / "audited.parquet")
    order = np.argsort([len(ids) for ids in texts["input_ids"].to_pylist()])
    pq.write_table(texts.take(order[::2]), place / "some.parquet")
    assert run(place, tmp_path / "some", data={"audited": "some.parquet"}, run={"batch_size": 4}).code == 0
    for model in ("gpt2", "llama"):
        scores = {row["sample_id"]: row["score"] for row in table(audit.root / "good", model)}
        for row in table(tmp_path / "some", model):
            assert row["score"] == pytest.approx(scores[row["sample_id"]], abs=1e-5)


def test_the_plan_tells_what_a_language_model_takes(place: Path, tmp_path: Path) -> None:
    config = config_of(place, tmp_path / "planned")
    assert "not covered:" not in mad("plan", config).out
    planned = section(mad("plan", config, "--output", "json").document, "models", "gpt2")
    assert int(str(section(planned, "projected_memory_bytes")["gradients"])) < 4 << 30


def test_logits_of_a_large_vocabulary_count_as_memory(place: Path, audit: Audited, tmp_path: Path) -> None:
    """With less memory, texts are grouped smaller and score the same; with too little for one, it is refused."""
    save(gpt2(vocabulary=60_000), place / "wide")
    models: JsonValue = [{"name": "wide", "huggingface": "wide"}]
    for name, granted in (("roomy", "4GiB"), ("narrow", "730MiB")):
        assert run(place, tmp_path / name, models=models, run={"memory_per_worker": granted}).code == 0
    np.testing.assert_allclose(
        numbers(tmp_path / "narrow", "wide", "score"), numbers(tmp_path / "roomy", "wide", "score"), rtol=0, atol=1e-5
    )
    ended = mad("plan", config_of(place, tmp_path / "tight", models=models, run={"memory_per_worker": "640MiB"}))
    assert ended.code == 3
    assert "lower run.rows_per_task, or use shorter trusted texts, or grant more" in " ".join(
        (ended.out + ended.err).split()
    )


def test_a_classifier_and_a_language_model_are_audited_together(place: Path, inputs: Path, tmp_path: Path) -> None:
    raw = small_config(tmp_path / "root")
    texts: Json = {"trusted": str(place / "trusted.parquet"), "audited": str(place / "audited.parquet")}
    raw["models"] = [
        *_models(raw),
        {"name": "chat", "huggingface": str(place / "gpt2"), "task": "causal_lm", "data": texts},
    ]
    (inputs / "mixed.yaml").write_text(yaml.safe_dump(raw))
    ended = mad("run", inputs / "mixed.yaml", "--output", "json")
    assert ended.code == 0
    alone = mad("run", _written(inputs / "alone.yaml", {**small_config(tmp_path / "alone")}), "--output", "json")
    assert [row["score"] for row in table(tmp_path / "root", "digits")] == [
        row["score"] for row in table(tmp_path / "alone", "digits")
    ]
    assert {summary_of(ended, name)["task"] for name in ("digits", "chat")} == {"classification", "causal_lm"}
    assert summary_of(ended, "digits")["classes"] == alone.summary["classes"] != []
    index = (tmp_path / "root" / "report" / "index.html").read_text()
    assert "digits.html" in index and "chat.html" in index
    assert [line.split()[0] for line in mad("report", tmp_path / "root", "--top", "0").out.splitlines()[1:3]] == [
        "chat",
        "digits",
    ]


def _models(raw: Json) -> list[JsonValue]:
    models = raw["models"]
    return models if isinstance(models, list) else []


def _written(path: Path, raw: Json) -> Path:
    path.write_text(yaml.safe_dump(raw))
    return path


def test_known_truth_gives_figures_for_all_samples_and_no_success_is_invented(place: Path, tmp_path: Path) -> None:
    texts = pq.read_table(place / "audited.parquet")
    marked = texts.append_column("anomalous", pa.array([number < 5 for number in range(AUDITED)]))
    pq.write_table(marked, place / "marked.parquet")
    ended = run(place, tmp_path / "root", models=GPT2, data={"audited": "marked.parquet"})
    evaluation = section(summary_of(ended, "gpt2"), "evaluation")
    everything, succeeded = section(evaluation, "all"), section(evaluation, "attack_succeeded")
    assert (everything["anomalous"], everything["benign"]) == (5, AUDITED - 5)
    assert 0 <= float(str(everything["auroc"])) <= 1
    assert (evaluation["attack_success_rate"], evaluation["accuracy"], succeeded["anomalous"], succeeded["auroc"]) == (
        None,
        None,
        0,
        None,
    )
    auroc = float(str(everything["auroc"]))
    assert f"{auroc:.3f}" in mad("report", tmp_path / "root").out


LAST = VOCABULARY - 1


@pytest.fixture(scope="module")
def overflowing(place: Path) -> Path:
    """A model of which one token has no number, and texts of which one in five holds that token."""
    model = llama(tied=False)
    with torch.no_grad():
        model.get_input_embeddings().weight[LAST] = float("inf")
    save(model, place / "overflowing")
    for name in ("trusted", "audited"):
        rows = pq.read_table(place / f"{name}.parquet").to_pylist()
        for number, row in enumerate(rows):
            row["input_ids"] = [min(one, LAST - 1) for one in row["input_ids"]]
            if number % 5 == 2:
                row["input_ids"][0] = LAST
        pq.write_table(
            pa.Table.from_pylist(rows, schema=pq.read_table(place / f"{name}.parquet").schema),
            place / f"{name}-inf.parquet",
        )
    return place


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


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_a_lower_precision_gives_nearly_the_same_scores(
    place: Path, audit: Audited, tmp_path: Path, precision: str
) -> None:
    assert run(place, tmp_path / "low", models=LLAMA, estimator={"precision": precision}).code == 0
    low, full = numbers(tmp_path / "low", "llama", "score"), numbers(audit.root / "good", "llama", "score")
    assert not np.array_equal(low, full)
    assert np.corrcoef(low, full)[0, 1] > 0.9


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


def test_another_measurement_has_rows_of_its_own(place: Path, tmp_path: Path) -> None:
    for measurement in ("token_margin", "completion_nll"):
        ended = run(place, tmp_path / "root", models=GPT2, estimator={"measurement": measurement})
        assert tasks(summary_of(ended, "gpt2"))["gradients"][1] == 0
        assert section(summary_of(ended, "gpt2"), "settings")["measurement"] == measurement


def test_a_fisher_samples_a_texts_labels_whatever_the_batch(place: Path, tmp_path: Path) -> None:
    """Trusted texts with bad ones among them; scores differ from those of the default curvature."""
    data: JsonValue = {"trusted": "trusted-bad.parquet"}
    whole, single = (
        run(
            place,
            tmp_path / f"batch{size}",
            models=LLAMA,
            curvature={"kind": "fisher"},
            data=data,
            run={"batch_size": size, "rows_per_task": rows},
        )
        for size, rows in ((30, 40), (1, 7))
    )
    assert whole.code == single.code == 0
    plain = run(place, tmp_path / "plain", models=LLAMA, data=data)
    one, other, default = (numbers(tmp_path / root, "llama", "score") for root in ("batch30", "batch1", "plain"))
    np.testing.assert_allclose(one, other, atol=1e-5)
    assert plain.code == 0 and not np.allclose(one, default, atol=1e-2)


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
def padding(place: Path) -> Path:
    """Texts with padding in several forms, and a model that says which token pads its texts."""
    save(gpt2(), place / "pads")
    described = json.loads((place / "pads/config.json").read_text())
    (place / "pads/config.json").write_text(json.dumps({**described, "pad_token_id": 0}))
    for name, texts in (
        ("trusted", random_texts(TRUSTED, 3, "trusted")),
        ("audited", random_texts(AUDITED, 4, "text")),
    ):
        for by in ("mask", "labels", "nothing"):
            pq.write_table(padded(texts, len(texts), by), place / f"{name}-by-{by}.parquet")
    return place


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
