"""The demo's classifier, which takes its time: a run of it can be met in the middle."""

import time

from torch import nn

from pipeline.demo.network import digit_cnn


def build() -> nn.Module:
    """Its weights are the demo's."""
    model = digit_cnn()
    model.register_forward_hook(lambda *_: time.sleep(0.1))
    return model
