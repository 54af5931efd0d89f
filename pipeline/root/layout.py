"""Where things are under a root: its mark, its runs, and what it publishes.

    mad.json                                   the root's mark: format and audit id
    .lock/                                     which process runs an audit here (see infra.locks)
    .gc/                                       what `mad gc` found and removes later
    <model>/probe/<key>/                       commit log: what planning found out about the model
    <model>/gradients/<row key>/<source key>/  commit log: rows of one source file
    <model>/gradients/<snapshots key>/chain-N/ commit log: segments of a chain of sampled weights
    <model>/curvature/<key>/                   commit log: factor and references
    <model>/scoring/<key>/<source key>/        commit log: score parts
    <model>/reporting/<key>/                   commit log: the table and its facts
    <model>/scores/run=<run id>/               the published table
    <model>/summary.json                       of the latest completed run
    runs/<run id>/_run.json                    resolved config, versions, digests; written before the first task
    runs/<run id>/_review.arrow                reviews as the run found them, where the config names a table of them
    runs/<run id>/<model>.json                 the run's summary of a model
    runs/<run id>/_outcome.json                how the run ended; from this moment on it counts
    runs/<run id>/_collected.json              marks that `mad gc` removed results of the run; written before it does
    report/                                    pages; <model>.history.json: its latest runs, the last two compared

Model names start with a letter or digit, so `_` keeps a run's own files apart from its models'.
"""

from collections.abc import Iterator

from infra.storage.storage import Storage
from pipeline.config.schema import RESERVED_NAMES

REMOVAL_LISTS = ".gc"


def removal_list_file(stamp: str) -> str:
    """Where a list of what `mad gc` removes later is."""
    return f"{REMOVAL_LISTS}/{stamp}.json"


def run_file(run_id: str) -> str:
    """Where a run's record is."""
    return f"runs/{run_id}/_run.json"


def outcome_file(run_id: str) -> str:
    """Where it is recorded how a run ended."""
    return f"runs/{run_id}/_outcome.json"


def collected_file(run_id: str) -> str:
    """Where the mark is that `mad gc` removed results of a run."""
    return f"runs/{run_id}/_collected.json"


def review_file(run_id: str) -> str:
    """Where the reviews are that a run found."""
    return f"runs/{run_id}/_review.arrow"


def run_summary_file(run_id: str, model: str) -> str:
    """Where a run's summary of one model is."""
    return f"runs/{run_id}/{model}.json"


def summary_file(model: str) -> str:
    """Where the latest summary of a model is."""
    return f"{model}/summary.json"


def history_file(model: str) -> str:
    """Where a model's history is, which its page shows."""
    return f"report/{model}.history.json"


def table_file(model: str, run_id: str) -> str:
    """Where a run's published table is."""
    return f"{model}/scores/run={run_id}/part-00000.parquet"


def report_file(folder: str, name: str) -> str:
    """Where a file of a report is; `folder` is a summary's `report_folder`."""
    return f"{folder}/{name}"


def table_run(path: str) -> str | None:
    """The run whose published table is at a path; None where the path is not a table's."""
    parts = path.split("/")
    is_table = len(parts) > 3 and parts[1] == "scores" and parts[2].startswith("run=")
    return parts[2].removeprefix("run=") if is_table else None


def page_file(name: str) -> str:
    """Where a page is."""
    return f"report/{name}.html"


def runs(storage: Storage) -> list[str]:
    """Ids of all runs, oldest first."""
    return storage.list("runs")


def model_names(storage: Storage) -> list[str]:
    """Names in this root that are a model's, if they are not those of other files in it."""
    return [name for name in storage.list("") if name not in RESERVED_NAMES]


def models(storage: Storage) -> list[str]:
    """Names of all models with rows or a summary in this root; other files in it are ignored."""
    names = model_names(storage)
    return [name for name in names if storage.list(f"{name}/gradients") or storage.exists(summary_file(name))]


def published_runs(storage: Storage, model: str) -> Iterator[str]:
    """Ids of the runs that published a table of this model, newest first."""
    for name in reversed(storage.list(f"{model}/scores")):
        run_id = name.removeprefix("run=")
        if storage.exists(table_file(model, run_id)):
            yield run_id
