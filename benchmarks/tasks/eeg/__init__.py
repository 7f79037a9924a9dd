"""Tasks on windows of EEG."""
