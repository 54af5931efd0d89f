"""Text classifiers from config alone: of a column of texts by their folder's tokenizer, or of columns of tokens."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from pyarrow import csv
from pydantic import JsonValue
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForSequenceClassification,
)

from madcore import Projection, margin, per_sample_rows, select_layers
from pipeline.config.audit_config import AuditConfig
from pipeline.errors import ConfigError
from pipeline.planning.from_models import plan_audit
from pipeline.results.audit import Audit
from pipeline.run import run_audit
from tests.languages import save

pytestmark = pytest.mark.usefixtures("one_thread")

LONGEST = 12

WORDS = [f"w{number}" for number in range(30)]

SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}


def tokenizer(folder: Path, typed: bool = True) -> PreTrainedTokenizerFast:
    """Words by spaces, between marks, saved as `tokenizer.json` beside the model."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    made = Tokenizer(models.WordLevel({word: row for row, word in enumerate([*special, *WORDS])}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=made,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_max_length=LONGEST,
        model_input_names=["input_ids", *(["token_type_ids"] if typed else []), "attention_mask"],
    )
    fast.save_pretrained(folder)
    return fast


def bert() -> PreTrainedModel:
    names = {"id2label": {0: "bad", 1: "fine", 2: "good"}}
    return BertForSequenceClassification(BertConfig(vocab_size=34, max_position_embeddings=16, **SIZES, **names))


def roberta() -> PreTrainedModel:
    settings = RobertaConfig(vocab_size=34, max_position_embeddings=16, pad_token_id=0, num_labels=3, **SIZES)
    return RobertaForSequenceClassification(settings)


def written(folder: Path, build: Callable[[], PreTrainedModel] = bert) -> PreTrainedModel:
    torch.manual_seed(0)
    model = build().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    save(model, folder)
    return model


def texts(rows: int, seed: int, longest: int = 9) -> list[str]:
    generator = np.random.default_rng(seed)
    return [" ".join(generator.choice(WORDS, generator.integers(1, longest + 1))) for _ in range(rows)]


def config(folder: Path, columns: JsonValue, batch: int = 256, **settings: JsonValue) -> AuditConfig:
    data: JsonValue = {"trusted": "trusted.parquet", "audited": "audited.parquet", "columns": columns}
    models: JsonValue = [{"name": "model", "huggingface": "model"}]
    raw: dict[str, JsonValue] = {
        "root": f"root-{batch}",
        "task": "classification",
        "models": models,
        "data": data,
        "estimator": {"rows_dtype": "float32", "projection": {"rank": 4}},
        "calibration": {"target": {"fpr": 0.1}},
        "run": {"batch_size": batch},
    }
    return AuditConfig.parse({**raw, **settings}, str(folder))


def store(folder: Path, trusted: Sequence[str], audited: Sequence[str]) -> None:
    for split, found in (("trusted", trusted), ("audited", audited)):
        ids = [f"{split}-{row}" for row in range(len(found))]
        pq.write_table(pa.table({"id": ids, "review": found}), folder / f"{split}.parquet")


def rows(audit: Audit) -> np.ndarray:
    assert audit.outcome is not None and audit.outcome.clean
    return np.asarray(audit.rows("model", split="audited").compute())


@pytest.mark.parametrize(("build", "typed"), [(bert, True), (roberta, False)], ids=["bert", "roberta"])
def test_rows_are_those_of_each_text_alone(tmp_path: Path, build: Callable[[], PreTrainedModel], typed: bool) -> None:
    model, fast = written(tmp_path / "model", build), tokenizer(tmp_path / "model", typed)
    audited = texts(20, 2)
    store(tmp_path, texts(40, 1), audited)
    found = rows(run_audit(plan_audit(config(tmp_path, {"text": "review"}))))
    layers = select_layers(model, ["*"], "matrices").covered
    for row, text in zip(found, audited, strict=True):
        alone = dict(fast(text, return_tensors="pt"))
        assert ("token_type_ids" in alone) == typed
        expected = per_sample_rows(model, alone, layers=layers, projection=Projection(4, 0), measurement=margin)
        np.testing.assert_allclose(row, expected[0].numpy(), rtol=2e-3, atol=2e-5 * float(expected.abs().max()))


def test_a_score_does_not_depend_on_the_batch(tmp_path: Path) -> None:
    written(tmp_path / "model")
    tokenizer(tmp_path / "model")
    store(tmp_path, texts(40, 1), texts(30, 2))
    found = [rows(run_audit(plan_audit(config(tmp_path, {"text": "review"}, batch)))) for batch in (1, 7, 256)]
    for other in found[1:]:
        np.testing.assert_allclose(other, found[0], rtol=1e-4, atol=1e-5 * float(np.abs(found[0]).max()))


@pytest.mark.parametrize(
    "kind", ["kfac", *(pytest.param(kind, marks=pytest.mark.faults) for kind in ("ggn", "fisher"))]
)
def test_neither_does_a_curvature_by_more_than_rounding(tmp_path: Path, kind: str) -> None:
    written(tmp_path / "model")
    tokenizer(tmp_path / "model")
    store(tmp_path, texts(40, 1), texts(10, 2))
    found = []
    for batch in (1, 64):
        audit = run_audit(plan_audit(config(tmp_path, {"text": "review"}, batch, curvature={"kind": kind})))
        assert audit.outcome is not None and audit.outcome.clean
        found.append(np.asarray(audit.scores("model").read_all()["score"].to_pylist(), float))
    np.testing.assert_allclose(found[0], found[1], atol=2e-4)


def test_loss_traces_of_texts_are_refused(tmp_path: Path) -> None:
    traced: JsonValue = {"kind": "loss_trace", "sampling": "s.parquet"}
    with pytest.raises(ConfigError, match="estimator: loss_trace needs samples of one size, and texts are of many"):
        config(tmp_path, {"text": "review"}, estimator=traced)


def test_columns_of_tokens_give_the_rows_of_their_texts_wherever_they_are_padded(tmp_path: Path) -> None:
    written(tmp_path / "model")
    fast = tokenizer(tmp_path / "model")
    trusted, audited = texts(40, 1), texts(20, 2)
    store(tmp_path, trusted, audited)
    of_texts = rows(run_audit(plan_audit(config(tmp_path, {"text": "review"}))))
    for split, found in (("trusted", trusted), ("audited", audited)):
        encoded = fast(found, padding=True, padding_side="left" if split == "audited" else "right")
        columns = {
            name: [list(one) for one in encoded[name]] for name in ("input_ids", "attention_mask", "token_type_ids")
        }
        table = pa.table({"id": [f"{split}-{row}" for row in range(len(found))], **columns})
        pq.write_table(table, tmp_path / f"{split}.parquet")
    of_tokens = rows(run_audit(plan_audit(config(tmp_path, {"input_ids": "input_ids"}, batch=16))))
    np.testing.assert_allclose(of_tokens, of_texts, rtol=1e-4, atol=1e-5 * float(np.abs(of_texts).max()))


def test_longer_texts_are_cut_as_the_tokenizer_cuts_them_and_the_plan_says_how_many(tmp_path: Path) -> None:
    written(tmp_path / "model")
    tokenizer(tmp_path / "model")
    long = " ".join(WORDS[:25])
    store(tmp_path, [long, *texts(39, 1)], [long, " ".join(WORDS[: LONGEST - 2])])
    plan = plan_audit(config(tmp_path, {"text": "review"}))
    warning = "1 of the 40 trusted texts that were looked at have more than 12 tokens"
    assert any(warning in one for one in plan.models[0].recipe.warnings)
    cut, whole = rows(run_audit(plan))
    np.testing.assert_array_equal(cut, whole)


def test_names_of_classes_are_the_folders_and_labels_may_be_names(tmp_path: Path) -> None:
    written(tmp_path / "model")
    tokenizer(tmp_path / "model")
    store(tmp_path, texts(40, 1), texts(4, 2))
    table = pq.read_table(tmp_path / "trusted.parquet")
    stars = pa.array(["bad", "good"] * 20)
    pq.write_table(table.append_column("stars", stars), tmp_path / "trusted.parquet")
    plan = plan_audit(config(tmp_path, {"text": "review", "label": "stars"})).models[0]
    assert (plan.classes, plan.recipe.class_names) == (3, ("bad", "fine", "good"))


def test_a_changed_tokenizer_is_another_model_and_a_plan_is_used_again(tmp_path: Path) -> None:
    written(tmp_path / "model")
    tokenizer(tmp_path / "model")
    store(tmp_path, texts(40, 1), texts(4, 2))
    audit = config(tmp_path, {"text": "review"})
    plan = plan_audit(audit)
    assert run_audit(plan).outcome is not None
    again = plan_audit(audit)
    assert again.models[0].known
    assert again.models[0].inputs == plan.models[0].inputs
    document = tmp_path / "model" / "tokenizer_config.json"
    document.write_text(json.dumps(json.loads(document.read_text()) | {"model_max_length": 7}))
    changed = plan_audit(audit).models[0]
    assert not changed.known
    assert changed.row_key != plan.models[0].row_key


@pytest.mark.parametrize("columns", [{"text": "review"}, {"input_ids": "input_ids"}, {"image": "image"}, {}])
def test_a_recorded_config_means_the_same(tmp_path: Path, columns: JsonValue) -> None:
    own = config(tmp_path, columns)
    again = AuditConfig.parse(own.model_dump(mode="json", exclude={"folder"}), str(tmp_path))
    assert again.models == own.models
    assert again.models[0].samples == own.models[0].samples
    assert again.models[0].data.preprocesses == own.models[0].data.preprocesses


REFUSED: dict[str, tuple[JsonValue, str]] = {
    "no column": ({"text": "story"}, "trusted.parquet: has no column 'story' (data.columns.text)"),
    "pictures": ({"image": "image"}, "is a text classifier; name the column of its texts, data.columns.text"),
    "no tokens": ({"input_ids": "ids"}, "has no column 'ids' (data.columns.input_ids)"),
    "numbers": ({"text": "number"}, "the column 'number' (data.columns.text) is int64, expected text"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_columns_that_are_no_texts_are_refused(tmp_path: Path, case: str) -> None:
    written(tmp_path / "model")
    tokenizer(tmp_path / "model")
    found = {"review": texts(40, 1), "image": [b"x"] * 40, "number": [*range(40)]}
    for split in ("trusted", "audited"):
        table = pa.table({"id": [f"{split}-{row}" for row in range(40)], **found})
        pq.write_table(table, tmp_path / f"{split}.parquet")
    columns, says = REFUSED[case]
    with pytest.raises(ConfigError) as caught:
        plan_audit(config(tmp_path, columns))
    assert says in str(caught.value)


def test_texts_without_a_tokenizer_are_refused_and_bad_rows_cost_themselves(tmp_path: Path) -> None:
    written(tmp_path / "model")
    store(tmp_path, texts(40, 1), texts(4, 2))
    with pytest.raises(ConfigError, match=r"has no tokenizer\.json, which makes tokens of texts"):
        plan_audit(config(tmp_path, {"text": "review"}))
    ids: dict[str, list[list[int] | None]] = {"trusted": [[2, 9, 3]] * 20 + [[2, 8, 9, 3]] * 20}
    ids["audited"] = [[2, 9, 3], None, [2, 99, 3], [2] * 20, []]
    for split, lists in ids.items():
        column = pa.array(lists, pa.list_(pa.int64()))
        table = pa.table({"id": [f"{split}-{row}" for row in range(len(lists))], "input_ids": column})
        pq.write_table(table, tmp_path / f"{split}.parquet")
    audit = run_audit(plan_audit(config(tmp_path, {"input_ids": "input_ids"})))
    assert audit.scores("model").read_all()["status"].to_pylist() == [
        "ok",
        "unreadable: input_ids is null",
        "unreadable: the token id 99 at position 1 is outside the model's vocabulary, 0 to 33",
        "unreadable: it has 20 tokens, the model takes at most 16",
        "unreadable: input_ids is empty",
    ]


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_texts_in_lines_are_those_of_parquet_also_where_they_look_like_numbers(tmp_path: Path, ending: str) -> None:
    written(tmp_path / "model")
    tokenizer(tmp_path / "model")
    trusted, audited_texts = ["1.50", "007", *texts(38, 0)], ["1e3", "", "NA", *texts(9, 1)]
    store(tmp_path, trusted, audited_texts)
    expected = run_audit(plan_audit(config(tmp_path, {"text": "review"})))
    for split in ("trusted", "audited"):
        table = pq.read_table(tmp_path / f"{split}.parquet")
        (tmp_path / f"{split}.parquet").unlink()
        if ending == "csv":
            csv.write_csv(table, tmp_path / f"{split}.csv")
        else:
            lines = "\n".join(map(json.dumps, table.to_pylist()))
            (tmp_path / f"{split}.jsonl").write_text(lines)
    data = {split: f"{split}.{ending}" for split in ("trusted", "audited")}
    own = config(tmp_path, {}, root="other", data={**data, "columns": {"text": "review"}})
    again = run_audit(plan_audit(own))
    kept = ["sample_id", "score", "p_value", "status", "top_trusted"]
    assert again.scores("model").read_all().select(kept) == expected.scores("model").read_all().select(kept)
