"""What the data say of several rows: which differ, by how much, and which ranks they may have."""
