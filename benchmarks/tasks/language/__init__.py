"""Tasks whose answer is a text about an image or a volume: reports and questions."""
