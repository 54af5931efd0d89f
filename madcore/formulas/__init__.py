"""The per-sample gradient of each kind of layer from its inputs and its output's gradients."""
