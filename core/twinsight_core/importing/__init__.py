"""Imports weights of other projects, tensor by tensor, into networks and packages."""
