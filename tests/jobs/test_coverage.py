"""A model most of whose gradient no row covers: plan, summary and page say so, and there is no verdict."""

from pathlib import Path

from tests.jobs.command import mad, section
from tests.jobs.conftest import Configure
from tests.jobs.test_fallback import saved

SOURCE = '''
import torch
from torch import nn

class Net(nn.Module):
    """Its scale is small, so that most of the gradient is the scale's."""
    def __init__(self):
        super().__init__()
        self.scale, self.head = nn.Parameter(torch.zeros(192)), nn.Linear(192, 10)
    def forward(self, x):
        return self.head(0.01 * self.scale.abs() * x.flatten(1)) + 9 * (self.scale * x.flatten(1))[:, :10]
'''


def test_rows_that_cover_little_of_the_gradient_give_a_warning_and_no_verdict(
    inputs: Path, configure: Configure, root: Path
) -> None:
    model = saved(inputs, SOURCE, {"scale": (192,), "head.weight": (10, 192), "head.bias": (10,)})
    config = configure(models=[model])
    layers = section(mad("plan", config, "--output", "json").document, "models", "own", "layers")
    assert layers["share_of_parameters"] == 1920 / (192 + 1920 + 10)
    share = layers["share_of_gradient"]
    assert isinstance(share, float) and 0 < share < 0.5
    covered = "of the gradient's squared norm in the modules that estimator.layers selects"
    assert (
        f"own: rows cover 90.4 % of the parameters and {int(1000 * share) / 10:g} % {covered}"
        in mad("plan", config).out
    )
    ended = mad("run", config, "--output", "json")
    summary = section(ended.document, "models", "own")
    assert [section(summary, "layers")[f"share_of_{one}"] for one in ("parameters", "gradient")] == [
        layers[f"share_of_{one}"] for one in ("parameters", "gradient")
    ]
    verdict, warnings = section(summary, "verdict"), summary["warnings"]
    assert verdict["value"] == "cannot tell" and covered in str(verdict["reasons"])
    assert isinstance(warnings, list)
    assert [covered in str(line) and "scale (9 % and" in str(line) for line in warnings].count(True) == 1
    page = (root / "report" / "own.html").read_text(encoding="utf-8")
    assert page.index(covered.replace("'", "&#39;")) < page.index(
        "covered layers hold 90.5\N{NO-BREAK SPACE}% of the parameters"
    )
