"""What tries to break the promises of `docs/reliability.md`: `python -m benchmarks.torture`.

Each promise is a module that ends in `PROMISE`, and is listed in `registry`. The fast forms of the same machinery are
tests (`tests/benchmarks/torture`).
"""
