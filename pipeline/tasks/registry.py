"""All tasks whose models have outputs (n, D), by their names in a config."""

from collections.abc import Mapping

from pipeline.config.tasks import Task
from pipeline.tasks.binary import BINARY
from pipeline.tasks.classification import CLASSIFICATION
from pipeline.tasks.multi_label import MULTI_LABEL
from pipeline.tasks.regression import REGRESSION
from pipeline.tasks.vector_task import VectorTask

VECTOR_TASKS: Mapping[Task, VectorTask] = {
    "classification": CLASSIFICATION,
    "binary": BINARY,
    "multi_label": MULTI_LABEL,
    "regression": REGRESSION,
}
