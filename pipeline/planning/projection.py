"""The projection of a model's rows, as its config has it."""

from madcore import Projection
from pipeline.config.schema import ModelConfig


def projection_of(model: ModelConfig) -> Projection:
    """The projection that a model's config names."""
    section = model.gradient.projection
    return Projection(section.rank, section.seed, section.kind, section.sketch)
