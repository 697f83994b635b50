"""What lies on disk: the record, graphs beside it, and copies of both."""
