"""The gRPC server around `twinsight_core`. `convert` is the only place where messages meet arrays."""
