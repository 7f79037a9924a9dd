"""What a cell stores: its schema, its files, and whether they say the truth."""
