"""What a task optimises and how it predicts, one objective per file."""
