"""Measures of trained networks: arrays in, frozen dataclasses out."""
