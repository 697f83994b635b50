"""Weights of other projects, tensor by tensor, into networks and packages of this one."""
