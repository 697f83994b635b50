"""The only place where messages meet arrays: requests to core's types, core's results to messages."""
