"""How models of transformers are read, built and run."""
