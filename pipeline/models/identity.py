"""How a model is known again without reading its weights: by sizes, times and versions of files, and by small files.

What is small is known by its contents: the file of an architecture, and the documents of a folder. See `file_versions`
for the rest.
"""

from infra.errors import StorageError
from pipeline.config.audit_config import AuditConfig
from pipeline.config.schema import ModelConfig
from pipeline.errors import SourceError
from pipeline.models.interface import ModelFiles
from pipeline.models.sources.choose import source_of


def identify(config: AuditConfig, model: ModelConfig) -> ModelFiles | None:
    """What a model's files are now; no code is imported, and no weights are read.

    None where that cannot be told: a file is missing or not to be used, or its store gives uploads no version. Loading
    the model then says what is wrong.
    """
    try:
        return source_of(config, model).files()
    except (StorageError, SourceError, OSError, ValueError, ImportError):
        return None
