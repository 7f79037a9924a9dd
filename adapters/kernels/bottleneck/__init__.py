"""Residual 3D convolutional bottleneck."""
