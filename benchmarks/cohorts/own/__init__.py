"""Data that no reader was written for: a table of files and labels, or a folder for each class."""
