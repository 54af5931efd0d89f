"""Magika's network as a torch module, what it sees of a file, and its weights as the package's ONNX file has them."""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CONFIG = {"beg_size": 1024, "mid_size": 0, "end_size": 1024, "block_size": 4096, "padding_token": 256}
HALF, BLOCK, PADDING = CONFIG["beg_size"], CONFIG["block_size"], CONFIG["padding_token"]
FEWEST = 8  # bytes; of fewer, the package says what they are without the network

GRAPH = "jax2tf_get_logits_/pjit_get_logits_/MagikaV2/"
ONNX_NAMES = {
    "bytes.weight": "jax2tf_get_logits_/Const:0",
    "bytes.bias": f"{GRAPH}Dense_0/Reshape:0",
    "positions.weight": f"{GRAPH}LayerNorm_0/Reshape_2:0",
    "positions.bias": f"{GRAPH}LayerNorm_0/Reshape_3:0",
    "patterns.weight": f"{GRAPH}Conv_0/transpose_3:0",
    "patterns.bias": "const_fold_opt__209",
    "found.weight": f"{GRAPH}LayerNorm_1/Reshape_2:0",
    "found.bias": f"{GRAPH}LayerNorm_1/Reshape_3:0",
    "kinds.weight": "jax2tf_get_logits_/Const_24:0",
    "kinds.bias": f"{GRAPH}Dense_1/Reshape:0",
}
TRANSPOSED = ("bytes.weight", "kinds.weight")


class Magika(nn.Module):
    """Four bytes in a row are one of 512 positions; what five positions in a row look like decides the kind."""

    def __init__(self) -> None:
        """With random weights."""
        super().__init__()
        self.bytes = nn.Linear(257, 64)
        self.positions = nn.LayerNorm(512, eps=1e-6)
        self.patterns = nn.Conv1d(256, 512, kernel_size=5)
        self.found = nn.LayerNorm(512, eps=1e-6)
        self.kinds = nn.Linear(512, 214)

    def forward(self, content: Tensor) -> Tensor:
        """Logits (n, 214) of bytes (n, 2048), whole numbers from 0 to 256; the package's scores are their softmax."""
        weight = self.bytes.weight
        one_hot = torch.eye(257, dtype=weight.dtype, device=weight.device)[content]
        by_position = F.gelu(self.bytes(one_hot), approximate="tanh").reshape(-1, 512, 256)
        normed = self.positions(by_position.transpose(1, 2))  # over the positions, each channel alone
        return self.kinds(self.found(F.gelu(self.patterns(normed), approximate="tanh").amax(dim=2)))


def build() -> nn.Module:
    """What `architecture` names in audit.yaml."""
    return Magika()


def features(content: bytes) -> list[int] | None:
    """The 2,048 numbers that the network sees of a file; None where the package asks no network."""
    begin, end = content[:BLOCK].lstrip()[:HALF], content[-BLOCK:].rstrip()[-HALF:]
    if len(begin) < FEWEST:
        return None
    return [*begin, *[PADDING] * (HALF - len(begin)), *[PADDING] * (HALF - len(end)), *end]


def weights_of(onnx_file: Path) -> dict[str, Tensor]:
    """The state dict of `Magika`, from the package's file."""
    import onnx  # noqa: PLC0415 - mad loads this module too, and needs no onnx

    stored = {one.name: onnx.numpy_helper.to_array(one) for one in onnx.load(onnx_file).graph.initializer}
    arrays = {name: torch.tensor(stored[of]) for name, of in ONNX_NAMES.items()}
    arrays |= {name: arrays[name].T.contiguous() for name in TRANSPOSED}
    return {name: arrays[name].reshape(own.shape) for name, own in Magika().state_dict().items()}
