"""A static site of a board: one page with all tables, and a page for each row; no server, no network."""
