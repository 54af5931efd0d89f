"""What the columns `status` and `prediction` say of a sample without a row or a class."""

FAILED = "failed: "


UNREADABLE = "unreadable: "


OK, NONFINITE = "ok", "nonfinite"


FLAT = "flat"


NO_CLASS = -1
