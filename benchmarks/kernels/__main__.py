"""Measures the fused operations: ``python -m benchmarks.kernels``."""

from medgraft.benchmarks.kernels.command import main

if __name__ == "__main__":
    main()
