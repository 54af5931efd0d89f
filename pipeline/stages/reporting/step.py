"""The driver's part of the reporting stage: one task a model, over all its score parts."""

from functools import partial

from infra.storage.storage import Storage
from pipeline.root.logs import reporting_log
from pipeline.stages.progress import ModelRun
from pipeline.stages.reporting.worker import ReportingWorker, ReportTask, reporting_key
from pipeline.stages.runner import Job, StageInputs


def run_reporting(inputs: StageInputs) -> None:
    """Report on all models; each report's receipt and folder are noted in its `ModelRun`."""
    storage, runner = inputs.storage, inputs.runner
    jobs = {model.plan.name: [_job(storage, model)] for model in runner.runnable}
    results = runner.run("reporting", partial(ReportingWorker, storage.url, inputs.plans), jobs)
    for name, (receipt,) in runner.receipts_of_complete(results).items():
        model, log = runner.models[name], jobs[name][0].log
        model.report = receipt
        model.report_folder = log.attempt_folder(receipt)
        model.manifests["reporting"] = [model.publish(log, [receipt])]


def _job(storage: Storage, model: ModelRun) -> Job[ReportTask]:
    assert model.curvature is not None
    name, key = model.plan.name, reporting_key(model.plan, model.score_parts, model.curvature.content)
    task = ReportTask(name, key, model.score_parts, model.curvature.references, model.segments)
    return Job(reporting_log(storage, name, key), task)
