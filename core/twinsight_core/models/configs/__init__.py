"""What networks are made of, as model packages say it: plain values, checked; nothing here needs JAX."""
