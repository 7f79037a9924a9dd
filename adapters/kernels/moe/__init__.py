"""Text-routed mixture of bottleneck experts."""
