"""Speed, measured: `python -m bench.perf`."""
