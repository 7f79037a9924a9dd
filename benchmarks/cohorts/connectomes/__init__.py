"""Weights between regions, a matrix or several for each person, and a table of the people."""
