"""Which kind of source a model's config names."""

from pipeline.config.audit_config import AuditConfig
from pipeline.config.schema import ModelConfig
from pipeline.models.interface import ModelSource
from pipeline.models.libraries.of_timm import TIMM
from pipeline.models.libraries.of_torchvision import TORCHVISION
from pipeline.models.sources.adapter import AdapterSource
from pipeline.models.sources.architecture import ArchitectureSource
from pipeline.models.sources.huggingface import HuggingFaceSource
from pipeline.models.sources.library import LibrarySource

LIBRARIES = (TIMM, TORCHVISION)


def source_of(config: AuditConfig, model: ModelConfig) -> ModelSource:
    """Where a model comes from, as its config says."""
    if model.adapter is not None:
        return AdapterSource(config, model)
    if model.huggingface is not None:
        return HuggingFaceSource(config, model)
    library = next((one for one in LIBRARIES if getattr(model, one.key) is not None), None)
    return ArchitectureSource(config, model) if library is None else LibrarySource(config, model, library)
