"""Tables beside that of the metrics."""
