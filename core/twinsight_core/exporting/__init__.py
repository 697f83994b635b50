"""Model packages as files that other runtimes run: StableHLO and ONNX."""

INPUT, OUTPUT = "images", "answers"
"""Names of the only input and output of an ONNX file."""
