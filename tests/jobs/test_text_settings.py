"""What a config asks of an audit of texts: memory, measurements, curvature, truth, a classifier beside it."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from pydantic import JsonValue

from tests.jobs.command import Json, mad, section, table, tasks
from tests.jobs.texts import AUDITED, GPT2, LLAMA, config_of, numbers, run, summary_of
from tests.jobs.workshop import small_config
from tests.languages import gpt2, save


def test_the_plan_tells_what_a_language_model_takes(text_inputs: Path, tmp_path: Path) -> None:
    config = config_of(text_inputs, tmp_path / "planned")
    assert "not covered:" not in mad("plan", config).out
    planned = section(mad("plan", config, "--output", "json").document, "models", "gpt2")
    assert int(str(section(planned, "projected_memory_bytes")["gradients"])) < 4 << 30


def test_logits_of_a_large_vocabulary_count_as_memory(text_inputs: Path, tmp_path: Path) -> None:
    """With less memory, texts are grouped smaller and score the same; with too little for one, it is refused."""
    save(gpt2(vocabulary=60_000), text_inputs / "wide")
    models: JsonValue = [{"name": "wide", "huggingface": "wide"}]
    for name, granted in (("roomy", "4GiB"), ("narrow", "730MiB")):
        assert run(text_inputs, tmp_path / name, models=models, run={"memory_per_worker": granted}).code == 0
    np.testing.assert_allclose(
        numbers(tmp_path / "narrow", "wide", "score"), numbers(tmp_path / "roomy", "wide", "score"), rtol=0, atol=1e-5
    )
    ended = mad("plan", config_of(text_inputs, tmp_path / "tight", models=models, run={"memory_per_worker": "640MiB"}))
    assert ended.code == 3
    assert "lower run.rows_per_task, or use shorter trusted texts, or grant more" in " ".join(
        (ended.out + ended.err).split()
    )


def test_a_classifier_and_a_language_model_are_audited_together(
    text_inputs: Path, inputs: Path, tmp_path: Path
) -> None:
    raw = small_config(tmp_path / "root")
    texts: Json = {"trusted": str(text_inputs / "trusted.parquet"), "audited": str(text_inputs / "audited.parquet")}
    raw["models"] = [
        *_models(raw),
        {"name": "chat", "huggingface": str(text_inputs / "gpt2"), "task": "causal_lm", "data": texts},
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


def test_known_truth_gives_figures_for_all_samples_and_no_success_is_invented(
    text_inputs: Path, tmp_path: Path
) -> None:
    texts = pq.read_table(text_inputs / "audited.parquet")
    marked = texts.append_column("anomalous", pa.array([number < 5 for number in range(AUDITED)]))
    pq.write_table(marked, text_inputs / "marked.parquet")
    ended = run(text_inputs, tmp_path / "root", models=GPT2, data={"audited": "marked.parquet"})
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


def test_another_measurement_has_rows_of_its_own(text_inputs: Path, tmp_path: Path) -> None:
    for measurement in ("token_margin", "completion_nll"):
        ended = run(text_inputs, tmp_path / "root", models=GPT2, estimator={"measurement": measurement})
        assert tasks(summary_of(ended, "gpt2"))["gradients"][1] == 0
        assert section(summary_of(ended, "gpt2"), "settings")["measurement"] == measurement


def test_a_fisher_samples_a_texts_labels_whatever_the_batch(text_inputs: Path, tmp_path: Path) -> None:
    """Trusted texts with bad ones among them; scores differ from those of the default curvature."""
    data: JsonValue = {"trusted": "trusted-bad.parquet"}
    whole, single = (
        run(
            text_inputs,
            tmp_path / f"batch{size}",
            models=LLAMA,
            curvature={"kind": "fisher"},
            data=data,
            run={"batch_size": size, "rows_per_task": rows},
        )
        for size, rows in ((30, 40), (1, 7))
    )
    assert whole.code == single.code == 0
    plain = run(text_inputs, tmp_path / "plain", models=LLAMA, data=data)
    one, other, default = (numbers(tmp_path / root, "llama", "score") for root in ("batch30", "batch1", "plain"))
    np.testing.assert_allclose(one, other, atol=1e-5)
    assert plain.code == 0 and not np.allclose(one, default, atol=1e-2)
