"""What ``python -m benchmarks.gpu_check`` asks of a GPU, a file for each kind of question."""
