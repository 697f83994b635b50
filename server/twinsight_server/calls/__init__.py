"""Calls from their coming to their answers: taken or refused, timed, counted, ended."""
