"""The gRPC server: messages in, `twinsight_core` out. `convert` is the only place where messages meet arrays."""
