"""Shared operations: which form of one runs (eager or fused), and what the fused forms need of Triton."""
