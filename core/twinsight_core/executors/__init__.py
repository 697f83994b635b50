"""Ways to compute a batch. One model, one set of weights, the same answers."""
