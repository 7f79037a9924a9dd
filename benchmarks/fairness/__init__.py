"""What makes rows comparable: what a table may not mix, what sets a row apart, what a result says of its tuning."""
