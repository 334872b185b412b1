"""The comparison: methods trained and measured by the same lines, and one table of them."""
