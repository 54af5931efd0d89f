"""An audit from Python: digits, a fifth of which carry a trigger unknown to the audit."""

from pathlib import Path

import pyarrow.compute as pc

from pipeline import AuditConfig, plan_audit, run_audit
from pipeline.demo.prepare import prepare_demo

# Trains a classifier with a backdoor; writes weights, two Parquet files and audit.yaml.
config = AuditConfig.load(prepare_demo(Path("inputs"), root="audits"))

# Loads the model, checks its layers against autograd, and writes nothing.
plan = plan_audit(config)
for model in plan.models:
    layers = ", ".join(model.layout.names)
    print(f"{model.name}: {len(model.row_tasks)} tasks, layers {layers}")

# Resumes by itself: run it again, and no task is computed twice.
audit = run_audit(plan)
summary = audit.summary("digits")
print("verdict:", summary.verdict.value)
print("because:", summary.verdict.reasons[0])

scores = audit.scores("digits").read_all()
worst = scores.sort_by([("score", "descending")]).slice(0, 3)
for sample in worst.select(["sample_id", "score", "p_value"]).to_pylist():
    print(sample)

# The demo knows which digits carry the trigger. Only the evaluation sees that.
rates = summary.evaluation.attack_succeeded.at_calibrated
flagged = pc.sum(scores["flagged"]).as_py()
print(f"flagged {flagged} of {len(scores)}; TPR {rates.tpr:.2f}, FPR {rates.fpr:.2f}")
