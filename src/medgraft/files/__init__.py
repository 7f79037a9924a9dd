"""Reading files that anyone may have written: limits, archives, structured text, and where caches lie."""
