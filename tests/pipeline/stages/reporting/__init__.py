"""Tests of `pipeline.stages.reporting`."""
