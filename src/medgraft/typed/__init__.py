"""Types where PyTorch, plugins and files leave them open."""
