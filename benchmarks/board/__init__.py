"""The leaderboard and the figures beside it, derived from folders of results."""
