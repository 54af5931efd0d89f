"""An audit from Python: the demo's digits, a tenth of which carry a trigger that nobody told the audit about."""

from pathlib import Path

import pyarrow.compute as pc

from pipeline import AuditConfig, plan_audit, run_audit
from pipeline.demo import prepare_demo

# Trains a small classifier with a backdoor, and writes its weights, two Parquet files and audit.yaml.
config = AuditConfig.load(prepare_demo(Path("inputs"), root="audits"))

plan = plan_audit(config)  # loads the model, checks its layers against autograd, and writes nothing
for model in plan.models:
    print(f"{model.name}: {len(model.row_tasks)} tasks, layers {', '.join(model.layout.names)}")

audit = run_audit(plan)  # resumes by itself: run it again, and no task is computed twice
summary = audit.summary("digits")
print("verdict:", summary["verdict"]["value"])
print("because:", summary["verdict"]["reasons"][0])

scores = audit.scores("digits").read_all()
worst = scores.select(["sample_id", "score", "p_value"]).sort_by([("score", "descending")]).slice(0, 3)
for sample in worst.to_pylist():
    print(sample)

# The demo knows which digits carry the trigger. The scores never saw that; only the evaluation does.
rates = summary["evaluation"]["attack_succeeded"]["at_calibrated"]
print(f"flagged {pc.sum(scores['flagged']).as_py()} of {len(scores)}; TPR {rates['tpr']:.2f}, FPR {rates['fpr']:.2f}")
