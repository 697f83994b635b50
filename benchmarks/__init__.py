"""Measurements of a real server, written to `benchmarks/results` with machine, versions and commit."""
