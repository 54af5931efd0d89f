"""Where everything lies under a root, and how tensors become arrays and columns there. No other package joins paths."""
