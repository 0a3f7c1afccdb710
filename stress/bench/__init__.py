"""The benchmarks: `python -m stress.bench NAME`."""
