"""What a suite makes of results: which belong to it, and where its adapters rank."""
