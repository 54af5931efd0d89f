"""Models ready to be audited, from whatever source their config names."""

from pipeline.config.audit_config import AuditConfig
from pipeline.config.schema import ModelConfig
from pipeline.models.interface import LoadedModel
from pipeline.models.outputs import adapt_outputs
from pipeline.models.sources.choose import source_of


def load_model(config: AuditConfig, model: ModelConfig, source: bytes | None = None) -> LoadedModel:
    """A model with its weights, random ones of a control, which returns the outputs that its task reads.

    Args:
        config: the audit's.
        model: the model's.
        source: the code of its architecture file, where it has been read before.

    Raises:
        SourceError: naming what is wrong with the model's code, files or weights.
    """
    found = source_of(config, model)
    return _adapted(found.untrained(source) if model.untrained else found.load(source), model)


def load_shapes(config: AuditConfig, model: ModelConfig, source: bytes | None = None) -> LoadedModel:
    """A model without its weights, on torch's meta device: shapes alone, whose digest is "".

    Raises:
        SourceError: naming what is wrong with the model's code or files.
    """
    return _adapted(source_of(config, model).shapes(source), model)


def _adapted(loaded: LoadedModel, model: ModelConfig) -> LoadedModel:
    adapt_outputs(loaded.module, model)
    return loaded
