"""Tests of `pipeline.stages.gradients`."""
