"""LoRA on a packed projection."""
