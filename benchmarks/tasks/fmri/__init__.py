"""Tasks on functional MRI."""
