"""What a collection has in memory: its rows, the graph over them, and the searches of both."""
