"""Where everything lies under a root, and how tensors become arrays and columns there. No other package joins paths."""

from pipeline.artifacts.layout import RootInfo, check_root, claim_root
from pipeline.artifacts.logs import curvature_log, reporting_log, rows_log, scoring_log

__all__ = ["RootInfo", "check_root", "claim_root", "curvature_log", "reporting_log", "rows_log", "scoring_log"]
