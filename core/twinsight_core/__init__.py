"""Models, batches, indexes and collections: arrays in, arrays out. Knows nothing of gRPC or protobuf."""
