"""The four stages. Each has `step` (what the driver does) and `worker` (what a task does)."""
