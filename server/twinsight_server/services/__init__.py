"""The gRPC services: they check and translate, and have no logic of their own."""
