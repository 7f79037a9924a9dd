"""Graph networks on connectomes."""
