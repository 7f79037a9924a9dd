"""One cell of a sweep: its specification, its steps, its result and whether that can be believed."""
