"""The tokens that a model's texts may be padded with, as its folder says."""

import json
from pathlib import Path

import pytest
from transformers import GenerationConfig, LlamaConfig

from pipeline.data.folders import TOKENIZER
from pipeline.models.huggingface.padding import padding_tokens
from tests.languages import VOCABULARY


def test_padding_comes_from_the_configs_of_the_model_and_of_its_tokenizer(tmp_path: Path) -> None:
    config, generation = LlamaConfig(eos_token_id=None), GenerationConfig()
    assert padding_tokens([config, generation], tmp_path, VOCABULARY) == ()
    config.eos_token_id, generation.pad_token_id = [9, 2, VOCABULARY], 7
    assert padding_tokens([config, generation], tmp_path, VOCABULARY) == (2, 7, 9)
    names = {"30": {"content": "<pad>"}, "31": {"content": "</s>"}, "32": {"content": "<s>"}}
    described = {"pad_token": "<pad>", "eos_token": {"content": "</s>"}, "added_tokens_decoder": names}
    (tmp_path / TOKENIZER).write_text(json.dumps(described))
    assert padding_tokens([config, generation], tmp_path, VOCABULARY) == (2, 7, 9, 30, 31)


@pytest.mark.parametrize(
    "text", ["", "[]", "{", '{"pad_token": "a"}', '{"pad_token": ["a"], "added_tokens_decoder": {"x": 1}}']
)
def test_a_tokenizer_that_says_nothing_gives_no_hint(tmp_path: Path, text: str) -> None:
    (tmp_path / TOKENIZER).write_text(text)
    assert padding_tokens([], tmp_path, VOCABULARY) == ()
