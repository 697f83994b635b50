"""A collection's data in memory: its rows, the graph over them, and searches of both."""
