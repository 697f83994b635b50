"""Model packages as files that other runtimes run: StableHLO and ONNX."""
