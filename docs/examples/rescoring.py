"""Another damping, and a grid of settings, from stored rows: without model and data."""

from pathlib import Path

import yaml

from pipeline import AuditConfig, plan_audit, rescore_audit, run_audit
from pipeline.demo.prepare import prepare_demo
from pipeline.operations.grid import load_points
from pipeline.operations.sweep import sweep

path = prepare_demo(Path("inputs"), root="audits")
run_audit(plan_audit(AuditConfig.load(path)))

# `mad rescore audits damped.yaml`: a run of its own, from the rows that the first one stored.
settings = yaml.safe_load(path.read_text())
settings["curvature"] = {"damping": {"kind": "relative_mean", "factor": 0.1}}
damped = Path("inputs/damped.yaml")
damped.write_text(yaml.safe_dump(settings))
Path("inputs/digits.safetensors").unlink()  # the model may be gone
audit = rescore_audit(AuditConfig.load(damped))
counts = audit.summary("digits").counts
print(f"damping 0.1: {counts.flagged} of {counts.audited} flagged")

# `mad sweep audits sweep.yaml`: every point of a grid; publishes nothing.
grid = {"curvatures": ["block_moment", "identity"], "ranks": [4, 16]}
sweep_file = Path("inputs/sweep.yaml")
sweep_file.write_text(yaml.safe_dump({"audit": "audit.yaml", "grid": grid}))
for point in sweep(load_points(str(Path("audits").resolve()), sweep_file)):
    chosen = ", ".join(f"{name} {value}" for name, value in point["settings"].items())
    rates = point["evaluation"]["attack_succeeded"]
    print(f"{chosen}: AUROC {rates['auroc']:.3f}, TPR {rates['at_calibrated']['tpr']:.2f}")
