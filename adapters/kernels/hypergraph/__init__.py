"""Attention-conditioned hypergraph."""
