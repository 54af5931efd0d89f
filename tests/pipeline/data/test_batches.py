"""Batches: groups of samples that go through a model together."""

from pathlib import Path

from pipeline.config.audit_config import AuditConfig
from pipeline.data.batches import TextBytes, TextInputs
from pipeline.data.texts import TextLimits
from tests.pipeline.data.text_files import source_of, text_table

TOKEN = 1 << 20


def groups_of(folder: Path, lengths: list[int], batch_bytes: int) -> tuple[list[list[int]], list[str]]:
    """Places of each group of one batch, and the reasons of what is in none."""
    source = source_of(folder, text_table([[1] * length for length in lengths], [1] * len(lengths)))
    config = AuditConfig.parse(
        {
            "root": "r",
            "task": "causal_lm",
            "models": [{"name": "m", "huggingface": "/m"}],
            "data": {"trusted": "t", "audited": "a"},
        },
        str(folder),
    )
    inputs = TextInputs(TextLimits(10, None), TextBytes(TOKEN / 2, TOKEN / 32), batch_bytes)
    (batch,) = inputs.read(config.models[0], source, range(len(lengths)), 100)
    return [group.places.tolist() for group in batch.groups], list(batch.unreadable)


def test_texts_are_grouped_by_length_into_the_memory_there_is(tmp_path: Path) -> None:
    """A text of 8 tokens takes 6 MiB, one of 16 takes 16, one of 32 takes 48."""
    assert groups_of(tmp_path, [16, 3, 16, 8, 30], 100 * TOKEN) == ([[1, 3, 0, 2], [4]], [""] * 5)
    assert groups_of(tmp_path, [16, 3, 16, 8, 30], 64 * TOKEN) == ([[1, 3, 0, 2], [4]], [""] * 5)
    assert groups_of(tmp_path, [16, 16, 16, 16, 16], 32 * TOKEN) == ([[0, 1], [2, 3], [4]], [""] * 5)


def test_a_text_for_which_there_is_not_enough_memory_says_so(tmp_path: Path) -> None:
    groups, reasons = groups_of(tmp_path, [8, 64, 9], 30 * TOKEN)
    assert groups == [[0], [2]]
    assert reasons[1] == (
        "input_ids has 64 tokens, which would need 160 MiB; run.memory_per_worker leaves 30 MiB for a batch: grant more"
    )
