"""Networks as Flax NNX modules: arrays in, arrays out, jit left to the caller."""
