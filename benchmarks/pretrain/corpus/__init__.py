"""Generated texts that the embedded language model learns from: reports, questions on them, and plain sentences."""
