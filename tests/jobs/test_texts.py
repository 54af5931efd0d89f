"""Audits of language models from the command line: a row for every text, statuses, pages, whatever the batch."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.jobs.command import Ended, Json, mad, section, table, tasks
from tests.jobs.texts import (
    AUDITED,
    BAD,
    LLAMA,
    ROWS_PER_TASK,
    TRUSTED,
    numbers,
    run,
    summary_of,
)


@dataclass(frozen=True)
class Audited:
    """An audit of good texts, and one with bad ones among trusted and audited, run twice."""

    root: Path
    good: Ended
    bad: Ended
    again: Ended


@pytest.fixture(scope="module")
def audit(text_inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Audited:
    root = tmp_path_factory.mktemp("roots")
    bad: Json = {"trusted": "trusted-bad.parquet", "audited": "audited-bad.parquet"}
    return Audited(root, run(text_inputs, root / "good"), *(run(text_inputs, root / "bad", data=bad) for _ in range(2)))


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
    warnings = summary["warnings"]
    assert isinstance(warnings, list) and [line for line in warnings if not str(line).startswith("rows cover")] == []
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


def test_scores_do_not_depend_on_the_batch_or_on_the_memory_for_one(
    text_inputs: Path, audit: Audited, tmp_path: Path
) -> None:
    settings: dict[str, Json] = {"one": {"batch_size": 1}, "many": {"batch_size": 256, "rows_per_task": 64}}
    for name, settled in settings.items():
        assert run(text_inputs, tmp_path / name, run=settled).code == 0
        for model in ("gpt2", "llama"):
            for column in ("score", "confidence", "p_value", "leverage"):
                expected = numbers(audit.root / "good", model, column)
                np.testing.assert_allclose(
                    numbers(tmp_path / name, model, column),
                    expected,
                    rtol=1e-5 if column == "leverage" else 0,
                    atol=1e-5,
                )


def test_a_text_scores_the_same_whatever_its_neighbours_are(text_inputs: Path, audit: Audited, tmp_path: Path) -> None:
    texts = pq.read_table(text_inputs / "audited.parquet")
    order = np.argsort([len(ids) for ids in texts["input_ids"].to_pylist()])
    pq.write_table(texts.take(order[::2]), text_inputs / "some.parquet")
    assert run(text_inputs, tmp_path / "some", data={"audited": "some.parquet"}, run={"batch_size": 4}).code == 0
    for model in ("gpt2", "llama"):
        scores = {row["sample_id"]: row["score"] for row in table(audit.root / "good", model)}
        for row in table(tmp_path / "some", model):
            assert row["score"] == pytest.approx(scores[row["sample_id"]], abs=1e-5)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_a_lower_precision_gives_nearly_the_same_scores(
    text_inputs: Path, audit: Audited, tmp_path: Path, precision: str
) -> None:
    assert run(text_inputs, tmp_path / "low", models=LLAMA, estimator={"precision": precision}).code == 0
    low, full = numbers(tmp_path / "low", "llama", "score"), numbers(audit.root / "good", "llama", "score")
    assert not np.array_equal(low, full)
    assert np.corrcoef(low, full)[0, 1] > 0.9
