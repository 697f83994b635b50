"""Model packages as files that other runtimes run: StableHLO and ONNX."""

INPUT, OUTPUT = "images", "answers"
"""Names of an ONNX file's single input and output."""
