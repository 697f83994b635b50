"""Pictures through a model: decoded, gathered into batches, computed by lanes."""
