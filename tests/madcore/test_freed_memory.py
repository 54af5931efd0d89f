import os
import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource

import torch
from torch import nn

from madcore import Layer, Projection, RowExtractor


def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        activations = [torch.ones(4 << 20, dtype=torch.uint8) for _ in range(10)]
        del activations
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


faults()
fetched = faults()
RowExtractor(nn.Linear(3, 2).eval(), [Layer("", "weight", (2, 3))], Projection(2))
faults()
print(fetched, faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's malloc is told to keep what was freed")
def test_pages_of_freed_tensors_are_kept_once_there_is_an_extractor() -> None:
    # in a process of its own, because malloc learns from whatever was freed in this one; what comes first in each state is not counted
    untold = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_TUNABLES"))}
    ended = subprocess.run([sys.executable, "-c", FAULTS], check=True, capture_output=True, text=True, env=untold)
    before, after = (int(number) for number in ended.stdout.split())
    assert after * 10 < before
