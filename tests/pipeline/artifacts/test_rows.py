"""Rows are read a chunk at a time and come in blocks of one size, which no chunk decides."""

import pytest
import torch

from infra.storage.storage import Storage
from madcore.rows import RowLayout
from pipeline.artifacts.parts import RowsPart
from pipeline.artifacts.rows import ARRAY, encode_rows, open_rows, read_range, read_stored, to_stored
from pipeline.artifacts.samples import SampleColumns
from pipeline.data.statuses import OK
from pipeline.errors import StageError

LAYOUT = RowLayout(("one", "two"), (200, 312))


ROWS = 11_000


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> tuple[Storage, torch.Tensor]:
    """A task's rows, more than two chunks of them, and what was written."""
    storage, generator = Storage(str(tmp_path_factory.mktemp("rows"))), torch.Generator().manual_seed(0)
    rows, zeros = torch.randn(ROWS, LAYOUT.k, generator=generator), torch.zeros(ROWS)
    names = [f"sample {row}" for row in range(ROWS)]
    half, scales = to_stored(rows, LAYOUT, "float16")
    columns = SampleColumns(names, list(range(ROWS)), torch.arange(ROWS) % 10, zeros, zeros, [OK] * ROWS)
    for name, data in encode_rows(half, scales, columns, LAYOUT).items():
        storage.write(f"task/{name}", data)
    return storage, half.float() * LAYOUT.spread(scales)


PART = RowsPart("source", "key", 0, ROWS, "task", "content")


@pytest.mark.parametrize("block_rows", [100, 512, 4096, 4099, ROWS, 2 * ROWS])
def test_blocks_have_one_size_and_together_they_are_the_rows(
    stored: tuple[Storage, torch.Tensor], block_rows: int
) -> None:
    storage, rows = stored
    assert ROWS > 2 * open_rows(storage, PART).chunks[0] > 512
    blocks = list(read_stored(storage, PART, LAYOUT, block_rows))
    assert {len(block.stored) for block in blocks[:-1]} <= {block_rows} and 0 < len(blocks[-1].stored) <= block_rows
    assert torch.equal(torch.cat([block.rows for block in blocks]), rows)
    assert [name for block in blocks for name in block.samples.ids] == [f"sample {row}" for row in range(ROWS)]
    assert torch.equal(torch.cat([block.samples.predictions for block in blocks]), torch.arange(ROWS) % 10)


def test_rows_of_other_layers_are_refused(stored: tuple[Storage, torch.Tensor]) -> None:
    storage, _ = stored
    with pytest.raises(StageError, match="rows of other layers"):
        next(read_stored(storage, PART, RowLayout(("one", "other"), LAYOUT.sizes), 512))
    assert storage.exists(f"task/{ARRAY}/zarr.json")


def test_a_range_of_rows_is_read_wherever_it_lies(stored: tuple[Storage, torch.Tensor]) -> None:
    storage, rows = stored
    chunk = open_rows(storage, PART).chunks[0]
    for start, stop in ((0, 1), (0, chunk), (chunk - 3, chunk + 5), (2 * chunk, ROWS), (0, ROWS)):
        assert torch.equal(read_range(storage, PART, LAYOUT, start, stop), rows[start:stop])
