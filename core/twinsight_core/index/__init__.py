"""Nearest-neighbour indexes over vectors in memory: an exact one and a graph, behind one interface."""
