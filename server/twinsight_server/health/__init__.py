"""Health, which is a real inference, and how it is asked for."""
