"""Tasks on radiographs of the chest."""
