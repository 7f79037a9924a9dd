"""The steps of one cell, each a function from what the steps before it gave."""
