"""A folder of small inputs: a few of the demo's digits, and every kind of broken file a config may name."""

import pickle
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from pipeline.config.sections import Raw
from pipeline.demo.network import digit_cnn
from tests.audits import demo_config

TRUSTED, CLEAN, PATCHED = 120, 30, 30


AUDITED = CLEAN + PATCHED


MARKER = "the-pickle-was-executed"


DIGITS = "from pipeline.demo.network import digit_cnn\n"


CODE = {
    "raising.py": "def build():\n    raise RuntimeError('no such width')\n\n\n"
    "def number():\n    return 3\n\n\nlayers = 3\n",
    "importing.py": "import a_package_that_nobody_has\n",
    "invalid.py": "def build(:\n",
    "tuples.py": DIGITS
    + "class Net(type(digit_cnn())):\n    def forward(self, x):\n        return (super().forward(x),)\n\n"
    "def build():\n    return Net(*digit_cnn())\n",
    "leaving.py": "import sys\nsys.exit(0)\n",
    "talking.py": DIGITS + "print('loading the network')\n\n\ndef build():\n    return digit_cnn()\n",
    "dataclass.py": "from __future__ import annotations\nfrom dataclasses import dataclass\n"
    + DIGITS
    + "\n\n@dataclass\nclass Settings:\n    width: int = 16\n\n\n"
    "def build():\n    return digit_cnn(Settings().width)\n",
}


class Trap:
    """What loading its pickle would do is make a file."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return open, (str(self.marker), "w")


def small_config(root: Path) -> Raw:
    """An audit of the small inputs; to be written beside them."""
    small: Raw = {"calibration": {"target": {"fpr": 0.1}}, "run": {"rows_per_task": 64, "batch_size": 32}}
    return {**demo_config(root), **small}


def prepare(folder: Path, digits: Path) -> None:
    """Fills a folder."""
    (folder / "notes").mkdir()
    (folder / "notes" / "read.md").touch()
    shutil.copy(digits / "digits.safetensors", folder)
    trusted, audited = small_tables(digits)
    pq.write_table(trusted, folder / "trusted.parquet")
    pq.write_table(audited, folder / "audited.parquet")
    _break_data(folder, trusted, audited)
    _break_weights(folder)
    for name, code in CODE.items():
        (folder / name).write_text(code)


def small_tables(digits: Path) -> tuple[pa.Table, pa.Table]:
    """The first trusted digits, and audited ones half of which carry the trigger."""
    audited = pq.read_table(digits / "audited.parquet")
    clean, patched = (audited.filter(pc.equal(audited["anomalous"], truth)) for truth in (False, True))
    return pq.read_table(digits / "trusted.parquet").slice(0, TRUSTED), pa.concat_tables(
        [clean.slice(0, CLEAN), patched.slice(0, PATCHED)]
    )


@dataclass(frozen=True)
class SmallInputs:
    """A folder with the demo's weights and the code of a network, and the small tables, which are not written."""

    folder: Path
    trusted: pa.Table
    audited: pa.Table

    @classmethod
    def beside(cls, folder: Path, digits: Path, name: str, code: str) -> Self:
        """Fills the folder."""
        shutil.copy(digits / "digits.safetensors", folder)
        (folder / name).write_text(code)
        return cls(folder, *small_tables(digits))


def _break_data(folder: Path, trusted: pa.Table, audited: pa.Table) -> None:
    number = audited.schema.get_field_index("image")
    tables = {
        "empty": audited.slice(0, 0),
        "text": audited.set_column(number, "image", pa.array(["a picture"] * AUDITED)),
        "decimal": trusted.set_column(0, "id", pa.array([row + 0.5 for row in range(TRUSTED)])),
        "repeated": pa.concat_tables([trusted, trusted.slice(0, 5)]),
        "twins": pa.table([audited["id"], audited["image"], audited["id"]], names=["id", "image", "id"]),
    }
    for name, table in tables.items():
        pq.write_table(table, folder / f"{name}.parquet")
    (folder / "not-parquet.parquet").write_text("id,image\n")
    for name, column in (("audited", "image"), ("audited", "id"), ("trusted", "id")):
        damage_column(folder / f"{name}.parquet", column, folder / f"{name}-damaged-{column}.parquet")


def damage_column(source: Path, column: str, target: Path) -> None:
    """Copies a Parquet file with the stored values of one column overwritten; footer and page headers stay."""
    group, data = pq.ParquetFile(source).metadata.row_group(0), bytearray(source.read_bytes())
    chunk = next(
        group.column(index)
        for index in range(group.num_columns)
        if group.column(index).path_in_schema.split(".")[0] == column
    )
    start = chunk.dictionary_page_offset or chunk.data_page_offset
    first, last = start + 64, min(start + chunk.total_compressed_size, start + 320)
    data[first:last] = b"\xff" * (last - first)
    target.write_bytes(data)


def _break_weights(folder: Path) -> None:
    state = load_file(folder / "digits.safetensors")
    save_file(
        {("stem.weight" if name == "0.weight" else name): value for name, value in state.items() if name != "8.bias"},
        folder / "renamed.safetensors",
    )
    (folder / "not-tensors.safetensors").write_text("weights\n")
    torch.save(state, folder / "state.pt")
    torch.save(_model(state), folder / "full.pt")
    torch.save({"state_dict": Trap(folder / MARKER)}, folder / "trap.pt")
    (folder / "bare-trap.pth").write_bytes(pickle.dumps(Trap(folder / MARKER), protocol=2))
    (folder / "recent-trap.pth").write_bytes(pickle.dumps(Trap(folder / MARKER), protocol=4))
    torch.save([1, 2], folder / "list.pt")
    (folder / "page.pt").write_text("<html>404 not found</html>\n")


def _model(state: dict[str, torch.Tensor]) -> nn.Module:
    model = digit_cnn()
    model.load_state_dict(state)
    return model
