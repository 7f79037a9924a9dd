"""Tasks on data that no plugin was written for."""
