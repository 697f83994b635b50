"""Calls from arrival to response: accepted or rejected, timed, counted, ended."""
