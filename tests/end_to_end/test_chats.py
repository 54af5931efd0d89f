"""Language models from columns of conversations, or of prompts and completions, by their folder's own tokenizer."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import JsonValue
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from pipeline.config.audit_config import AuditConfig
from pipeline.errors import ConfigError
from pipeline.planning.from_models import plan_audit
from pipeline.results.audit import Audit
from pipeline.run import run_audit
from tests.languages import VOCABULARY, llama, save

pytestmark = pytest.mark.usefixtures("one_thread")

MARKS = ["[UNK]", "user", "assistant", "system", "<end>"]

WORDS = [f"w{number}" for number in range(VOCABULARY - len(MARKS))]

TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }} {{ message['content'] }} <end> {% endfor %}"
    "{% if add_generation_prompt %}assistant {% endif %}"
)


def tokenizer(folder: Path, template: str = TEMPLATE) -> PreTrainedTokenizerFast:
    made = Tokenizer(models.WordLevel({word: row for row, word in enumerate([*MARKS, *WORDS])}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(tokenizer_object=made, unk_token="[UNK]", model_input_names=["input_ids"])
    fast.chat_template = template
    fast.save_pretrained(folder)
    return fast


def said(generator: np.random.Generator) -> str:
    return " ".join(generator.choice(WORDS, generator.integers(1, 6)))


def conversations(rows: int, seed: int) -> list[list[dict[str, str]]]:
    generator = np.random.default_rng(seed)
    roles = ("user", "assistant", "user", "assistant")
    return [
        [{"role": role, "content": said(generator)} for role in roles[: int(generator.choice([2, 4]))]]
        for _ in range(rows)
    ]


def config(folder: Path, columns: JsonValue) -> AuditConfig:
    data: JsonValue = {"trusted": "trusted.parquet", "audited": "audited.parquet", "columns": columns}
    models: JsonValue = [{"name": "chat", "huggingface": "model"}]
    raw: dict[str, JsonValue] = {"root": "root", "task": "causal_lm", "models": models, "data": data}
    estimator: JsonValue = {"rows_dtype": "float32", "projection": {"rank": 4}}
    return AuditConfig.parse({**raw, "estimator": estimator, "calibration": {"target": {"fpr": 0.1}}}, str(folder))


def store(folder: Path, split: str, **columns: object) -> None:
    rows = len(next(iter(columns.values())))  # type: ignore[call-overload, arg-type]
    pq.write_table(pa.table({"id": [f"{split}-{row}" for row in range(rows)], **columns}), folder / f"{split}.parquet")


def rows(audit: Audit) -> np.ndarray:
    assert audit.outcome is not None and audit.outcome.clean
    return np.asarray(audit.rows("chat", split="audited").compute())


def test_conversations_have_the_rows_of_their_tokens(tmp_path: Path) -> None:
    save(llama(), tmp_path / "model")
    fast = tokenizer(tmp_path / "model")
    given = {"trusted": conversations(40, 1), "audited": conversations(12, 2)}
    for split, found in given.items():
        store(tmp_path, split, messages=found)
    plan = plan_audit(config(tmp_path, {"messages": "messages"}))
    made = rows(run_audit(plan))
    assert plan_audit(config(tmp_path, {"messages": "messages"})).models[0].known
    for split, found in given.items():
        whole = [fast.apply_chat_template(one, return_dict=True)["input_ids"] for one in found]
        before = [
            fast.apply_chat_template(one[:-1], add_generation_prompt=True, return_dict=True)["input_ids"]
            for one in found
        ]
        store(tmp_path, split, input_ids=whole, completion_start=[len(one) for one in before])
    tokens = rows(run_audit(plan_audit(config(tmp_path, {"input_ids": "input_ids"}))))
    np.testing.assert_allclose(made, tokens, rtol=1e-4, atol=1e-5 * float(np.abs(tokens).max()))


def test_prompts_with_completions_have_the_rows_of_their_tokens(tmp_path: Path) -> None:
    save(llama(), tmp_path / "model")
    fast = tokenizer(tmp_path / "model")
    generator = np.random.default_rng(0)
    given = {
        split: ([said(generator) for _ in range(count)], [" " + said(generator) for _ in range(count)])
        for split, count in (("trusted", 40), ("audited", 12))
    }
    for split, (prompts, completions) in given.items():
        store(tmp_path, split, question=prompts, answer=completions)
    made = rows(run_audit(plan_audit(config(tmp_path, {"prompt": "question", "completion": "answer"}))))
    for split, (prompts, completions) in given.items():
        whole = fast([one + other for one, other in zip(prompts, completions, strict=True)])["input_ids"]
        store(tmp_path, split, input_ids=whole, completion_start=[len(one) for one in fast(prompts)["input_ids"]])
    tokens = rows(run_audit(plan_audit(config(tmp_path, {"input_ids": "input_ids"}))))
    np.testing.assert_allclose(made, tokens, rtol=1e-4, atol=1e-5 * float(np.abs(tokens).max()))


def test_conversations_that_are_none_cost_themselves(tmp_path: Path) -> None:
    save(llama(), tmp_path / "model")
    tokenizer(tmp_path / "model")
    store(tmp_path, "trusted", messages=conversations(40, 1))
    user, answer = {"role": "user", "content": "w1"}, {"role": "assistant", "content": "w2"}
    long = {"role": "assistant", "content": " ".join(WORDS)}
    store(tmp_path, "audited", messages=[[user, answer], [user, user], [answer], [user, long], [], None])
    audit = run_audit(plan_audit(config(tmp_path, {"messages": "messages"})))
    last = "unreadable: the tokenizer does not take it (the last of at least two messages must be the assistant's)"
    assert audit.scores("chat").read_all()["status"].to_pylist() == [
        "ok",
        last,
        last,
        f"unreadable: it has {len(WORDS) + 5} tokens, the model takes at most 32",
        last,
        "unreadable: the text is null",
    ]


HOSTILE = "{{ ''.__class__.__mro__[1].__subclasses__() }}"


def test_a_template_that_reaches_for_more_than_the_conversation_is_stopped(tmp_path: Path) -> None:
    save(llama(), tmp_path / "model")
    tokenizer(tmp_path / "model", HOSTILE)
    for split in ("trusted", "audited"):
        store(tmp_path, split, messages=conversations(40, 1))
    with pytest.raises(ConfigError, match="none of its first 40 texts can be read; the first: the tokenizer does not"):
        plan_audit(config(tmp_path, {"messages": "messages"}))


REFUSED: dict[str, tuple[JsonValue, str]] = {
    "both": ({"messages": "m", "prompt": "p", "completion": "c"}, "give either messages, or prompt and completion"),
    "half": ({"prompt": "p"}, "give either messages, or prompt and completion (here: prompt)"),
    "texts": ({"text": "t"}, "text is for classifiers of texts; the task causal_lm reads input_ids"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_columns_that_make_no_sense_together_are_refused(tmp_path: Path, case: str) -> None:
    columns, says = REFUSED[case]
    with pytest.raises(ConfigError) as caught:
        config(tmp_path, columns)
    assert says in str(caught.value)


def test_without_a_tokenizer_texts_are_refused(tmp_path: Path) -> None:
    save(llama(), tmp_path / "model")
    for split in ("trusted", "audited"):
        store(tmp_path, split, messages=conversations(40, 1))
    with pytest.raises(
        ConfigError, match=r"data\.columns names messages, and the model's folder has no tokenizer\.json"
    ):
        plan_audit(config(tmp_path, {"messages": "messages"}))
