"""What the README shows, run as it stands there."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file

from pipeline.config.samples import Preprocess
from pipeline.data.images import decode, scale_pixels
from pipeline.demo.network import digit_cnn
from pipeline.planning.from_models import plan_audit
from pipeline.run import run_audit
from tests.conftest import ConfigMaker

README = Path(__file__).parents[2] / "README.md"


PREPROCESS = Preprocess(mean=(0.3, 0.3, 0.3), std=(0.35, 0.35, 0.35))


def tensors(path: Path) -> torch.Tensor:
    """All images of a file as a model takes them."""
    pixels = [decode(image["bytes"], (8, 8), resize=False) for image in pq.read_table(path).column("image").to_pylist()]
    return torch.from_numpy(scale_pixels(np.stack(pixels), PREPROCESS))


def code_below(heading: str) -> str:
    """The first block of Python below a heading."""
    code = re.search(r"```python\n(.*?)```", README.read_text(encoding="utf-8").partition(heading)[2], re.DOTALL)
    assert code is not None
    return code.group(1)


def test_the_notebook_finds_the_demos_backdoor(digits: Path) -> None:
    code = code_below("## The numerics alone")
    assert len([line for line in code.splitlines() if line.strip()]) <= 13
    model = digit_cnn().eval()
    model.load_state_dict(load_file(digits / "digits.safetensors"))
    names: dict[str, object] = {
        "model": model,
        "trusted": tensors(digits / "trusted.parquet"),
        "audited": tensors(digits / "audited.parquet"),
    }
    exec(code, names)
    p_values: NDArray[np.float64] = names["p_values"]  # type: ignore[assignment]
    anomalous = np.array(pq.read_table(digits / "audited.parquet").column("anomalous").to_pylist())
    flagged = p_values <= 0.05
    assert flagged[anomalous].mean() > 0.9
    assert flagged[~anomalous].mean() < 0.1


def test_the_notebook_reads_an_audit(make_config: ConfigMaker, tmp_path: Path) -> None:
    pytest.importorskip("pandas", reason="needs mad[dask]")
    run_audit(plan_audit(make_config()))
    names: dict[str, Any] = {}
    exec(code_below("## In a notebook").replace('"mad-demo"', repr(str(tmp_path / "root"))), names)
    scored = sum(batch.num_rows for batch in names["batches"])
    assert scored == len(names["rows"]) == len(names["frame"]) > 0
    assert names["whitening"].layout.k == names["rows"].shape[1]
