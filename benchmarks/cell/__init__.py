"""One cell of a sweep: its job, its steps, and the worker that takes them."""
