"""The truth about samples: read where a file has it, unknown elsewhere."""

from pathlib import Path

import pytest

from pipeline.data.sources import Split
from pipeline.data.truth import UNKNOWN, Truth, join_truth, read_truth, unknown_truth
from tests.pipeline.data.images.files import picture, sources_of


def lists(truth: Truth) -> tuple[list[int], list[int], list[int]]:
    return truth.label.tolist(), truth.anomalous.tolist(), truth.target.tolist()


@pytest.mark.parametrize(("split", "anomalous"), [("audited", [1, 0]), ("trusted", [UNKNOWN, UNKNOWN])])
def test_truth_is_read_of_rows_and_null_is_unknown(tmp_path: Path, split: Split, anomalous: list[int]) -> None:
    (source,), _ = sources_of(
        tmp_path, split, id=list("abc"), image=[picture(0)] * 3, label=[4, None, 6], anomalous=[True, True, False]
    )
    assert lists(read_truth(source, 1, 3)) == ([UNKNOWN, 6], anomalous, [UNKNOWN, UNKNOWN])


def test_pieces_are_joined_in_order_and_cut() -> None:
    (one, other) = unknown_truth(2), unknown_truth(1)
    one.label[:] = [3, 4]
    whole = join_truth([other, one])
    assert lists(whole) == ([UNKNOWN, 3, 4], [UNKNOWN] * 3, [UNKNOWN] * 3)
    assert lists(whole.of(1, 2)) == ([3], [UNKNOWN], [UNKNOWN])
