"""A finished audit, opened: scores, rows, curvatures, explanations and notebook views."""
