"""The statuses a sample can have, apart from those that say why."""

FAILED = "failed: "


UNREADABLE = "unreadable: "


OK, NONFINITE = "ok", "nonfinite"


NO_CLASS = -1
