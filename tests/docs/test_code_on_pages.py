"""The code on the pages, run as it is there."""

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
from pipeline.data.images.decoding import decode
from pipeline.data.images.reading import scale_pixels
from pipeline.demo.network import digit_cnn
from pipeline.planning.from_models import plan_audit
from pipeline.run import run_audit
from tests.conftest import ConfigMaker

DOCS = Path(__file__).parents[2] / "docs"


PREPROCESS = Preprocess(mean=(0.3, 0.3, 0.3), std=(0.35, 0.35, 0.35))


def tensors(path: Path) -> torch.Tensor:
    """All images of a file as a model takes them."""
    pixels = [decode(image["bytes"], (8, 8), resize=False) for image in pq.read_table(path).column("image").to_pylist()]
    return torch.from_numpy(scale_pixels(np.stack(pixels), PREPROCESS))


def first_block(page: str) -> str:
    """The first block of Python on a page."""
    code = re.search(r"```python\n(.*?)```", (DOCS / page).read_text(encoding="utf-8"), re.DOTALL)
    assert code is not None
    return code.group(1)


def audit_of_tensors() -> str:
    """What the page of madcore shows of its script, which imports madcore further up."""
    script = (DOCS / "examples/numerics.py").read_text(encoding="utf-8")
    return "import madcore\n" + script.partition("# audit\n")[2].partition("# end of audit")[0]


def test_the_numerics_find_the_demos_backdoor(digits: Path) -> None:
    code = audit_of_tensors()
    assert len([line for line in code.splitlines() if line.strip()]) <= 22
    model = digit_cnn().eval()
    model.load_state_dict(load_file(digits / "digits.safetensors"))
    names: dict[str, object] = {
        "model": model,
        "trusted": tensors(digits / "trusted.parquet"),
        "audited": tensors(digits / "audited.parquet"),
    }
    exec(code.replace("400", "350"), names)
    p_values: NDArray[np.float64] = names["p_values"]  # type: ignore[assignment]
    anomalous = np.array(pq.read_table(digits / "audited.parquet").column("anomalous").to_pylist())
    flagged = p_values <= 0.05
    assert flagged[anomalous].mean() > 0.9
    assert flagged[~anomalous].mean() < 0.1


def test_the_notebook_reads_an_audit(make_config: ConfigMaker, tmp_path: Path) -> None:
    pytest.importorskip("pandas", reason="needs the extra dask")
    run_audit(plan_audit(make_config()))
    names: dict[str, Any] = {}
    exec(first_block("reference/python.md").replace('"mad-demo"', repr(str(tmp_path / "root"))), names)
    scored = sum(batch.num_rows for batch in names["batches"])
    assert scored == len(names["rows"]) == len(names["frame"]) > 0
    assert names["whitening"].layout.k == names["rows"].shape[1]
