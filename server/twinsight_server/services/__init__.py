"""The gRPC services: each checks and translates, and has no logic of its own."""
