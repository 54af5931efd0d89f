"""What the README shows, run as it stands there."""

import re
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file

from pipeline.demo.network import digit_cnn
from pipeline.schema import Preprocess
from pipeline.sources.images import decode, scaled

README = Path(__file__).parents[2] / "README.md"
PREPROCESS = Preprocess(mean=(0.3, 0.3, 0.3), std=(0.35, 0.35, 0.35))


def tensors(path: Path) -> torch.Tensor:
    """All images of a file as a model takes them."""
    pixels = [decode(image["bytes"], (8, 8), resize=False) for image in pq.read_table(path).column("image").to_pylist()]
    return torch.from_numpy(scaled(np.stack(pixels), PREPROCESS))


def test_the_notebook_finds_the_demos_backdoor(digits: Path) -> None:
    section = README.read_text(encoding="utf-8").partition("## The numerics alone")[2]
    code = re.search(r"```python\n(.*?)```", section, re.DOTALL)
    assert code is not None and len([line for line in code.group(1).splitlines() if line.strip()]) <= 13
    model = digit_cnn().eval()
    model.load_state_dict(load_file(digits / "digits.safetensors"))
    names: dict[str, object] = {"model": model, "trusted": tensors(digits / "trusted.parquet"), "audited": tensors(digits / "audited.parquet")}
    exec(code.group(1), names)
    p_values: NDArray[np.float64] = names["p_values"]  # type: ignore[assignment]
    anomalous = np.array(pq.read_table(digits / "audited.parquet").column("anomalous").to_pylist())
    flagged = p_values <= 0.05
    assert flagged[anomalous].mean() > 0.9
    assert flagged[~anomalous].mean() < 0.1
