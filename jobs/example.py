"""`mad init`: a commented config to start from, or one for a model's folder."""

from importlib.resources import files
from pathlib import Path

from jobs.console import Common
from pipeline.errors import ConfigError


def write_example(folder: str, source: str | None, common: Common) -> None:
    """Writes audit.yaml unless it exists: the example, or what fits the model in the folder `source`.

    Raises:
        ConfigError: there is one already, or the folder cannot be written.
        SourceError: the folder `source` holds no model.
    """
    target = Path(folder) / "audit.yaml"
    content = _example() if source is None else _suggested(Path(source))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("x", encoding="utf-8") as file:
            file.write(content)
    except FileExistsError as error:
        what = f"{target}: exists already and is left unchanged" if target.exists() else f"{folder}: is a file"
        raise ConfigError(f"{what}; name another folder") from error
    except OSError as error:
        raise ConfigError(f"{target}: cannot be written ({error.strerror}); name another folder") from error
    text = f"{target} is written; fill in your models and data, then: mad plan {target}"
    common.emit({"config": str(target)}, text)


def _example() -> str:
    return files("jobs").joinpath("example.yaml").read_text(encoding="utf-8")


def _suggested(folder: Path) -> str:
    from pipeline.models.suggestion import suggested_config  # noqa: PLC0415 - takes seconds

    return suggested_config(folder.absolute())
