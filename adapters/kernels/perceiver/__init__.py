"""Cross-attention of few latents over many frozen tokens."""
