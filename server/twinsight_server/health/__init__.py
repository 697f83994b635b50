"""Health, based on a real inference, and the service that reports it."""
