"""Converts requests to core's types and core's results to messages; the only place where messages meet arrays."""
