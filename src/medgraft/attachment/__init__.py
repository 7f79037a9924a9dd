"""What happens to an encoder when adapters are attached: hooks, merging, whether sites are reached, copies."""
