"""A language model that sees later tokens is refused: it would predict tokens from themselves."""

import pytest
import torch
from transformers import BertConfig, BertLMHeadModel

from pipeline.errors import SourceError
from pipeline.planning.checks.causality import check_causal
from tests.languages import MODELS, VOCABULARY

IDS = torch.randint(VOCABULARY, (31,), generator=torch.Generator().manual_seed(0))


def bert(decoder: bool) -> BertLMHeadModel:
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    return BertLMHeadModel(BertConfig(vocab_size=VOCABULARY, is_decoder=decoder, use_cache=False, **sizes)).eval()


def test_causal_models_pass() -> None:
    for build in (*MODELS.values(), lambda: bert(decoder=True)):
        check_causal(build(), IDS, VOCABULARY, "model m")
        check_causal(build(), IDS[:2], VOCABULARY, "model m")


def test_a_model_that_sees_later_tokens_is_refused() -> None:
    with pytest.raises(SourceError, match=r"^model m: is not causal: other tokens in the second half of"):
        check_causal(bert(decoder=False), IDS, VOCABULARY, "model m")
