"""Token types of zeros: harmless to most models, refused where they would change what a text is."""

from pathlib import Path

import pyarrow as pa
import pytest
import torch

from pipeline.errors import SourceError
from pipeline.planning.checks.token_types import check_token_types, refuse_token_types, zeros_change_logits
from tests.languages import MODELS, VOCABULARY
from tests.pipeline.data.texts.files import source_of, text_table

IDS = torch.randint(VOCABULARY, (7,), generator=torch.Generator().manual_seed(0))


def test_zeros_mean_something_only_to_models_that_embed_them() -> None:
    changed = {name: zeros_change_logits(build(), IDS) for name, build in MODELS.items()}
    assert changed == {name: "gpt2" in name for name in MODELS}


def test_a_file_with_token_types_is_refused_for_such_a_model(tmp_path: Path) -> None:
    table = text_table([[1, 2]], [1])
    typed = table.append_column("token_type_ids", pa.array([[0, 0]]))
    assert refuse_token_types([source_of(tmp_path, table)]) == {}
    assert refuse_token_types([source_of(tmp_path, typed, ignored=["token_type_ids"])]) == {}
    says = r"^texts\.parquet: has a column 'token_type_ids', .* data\.columns\.ignored; this model adds an embedding"
    with pytest.raises(SourceError, match=says):
        check_token_types([source_of(tmp_path, typed)])
