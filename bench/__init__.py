"""The runner: knows trials and results, and no method, dataset or task by name."""
