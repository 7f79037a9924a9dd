"""Measures the fused operations: ``python -m benchmarks.kernels``."""
