"""An extractor makes malloc keep freed memory, so that large tensors come from the heap."""

import ctypes
import os
import subprocess
import sys

import pytest

BLOCKS = """
import ctypes

import torch
from torch import nn

from madcore import Layer, Projection, RowExtractor

COUNTS = ctypes.c_size_t * 10  # of `struct mallinfo2`, whose fourth, hblks, counts blocks that were mapped one by one
mallinfo = ctypes.CDLL(None).mallinfo2
mallinfo.restype = type("Counts", (ctypes.Structure,), {"_fields_": [("all", COUNTS)]})


def fetched():
    before = mallinfo().all[3]
    held.append(torch.empty(30 << 20, dtype=torch.uint8))
    return mallinfo().all[3] - before


held = []
print(fetched())
RowExtractor(nn.Linear(3, 2).eval(), [Layer("", "weight", (2, 3))], Projection(2))
print(fetched())
"""


@pytest.mark.skipif(
    not hasattr(ctypes.CDLL(None), "mallinfo2"),
    reason="only glibc's malloc, from 2.33 on, reports how it allocates blocks",
)
def test_large_tensors_are_of_the_heap_which_is_kept_once_there_is_an_extractor() -> None:
    # in a separate process, because malloc adapts to whatever was freed in this one, and to the blocks here if not held
    untold = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_TUNABLES"))}
    ended = subprocess.run([sys.executable, "-c", BLOCKS], check=True, capture_output=True, text=True, env=untold)
    assert ended.stdout.split() == ["1", "0"]
