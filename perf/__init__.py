"""Speed, as ratios against named baselines measured in the same run: `make perf`, or `python -m perf [part ...]`."""
