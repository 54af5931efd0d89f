"""The per-sample gradient of each kind of layer, from its inputs and the gradients of its outputs."""
