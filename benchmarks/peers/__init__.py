"""twinsight beside its alternatives, in one run on one machine: the same network, the same vectors.

Every peer, and every client of one, is a process of its own that takes orders (`worker`); peers' packages lie in
environments of their own (`environments`). One file a peer.
"""
