"""Inference: decodes pictures, gathers them into batches and computes these in lanes."""
