"""Commands of the harness: ``run``, ``cohort``, ``leaderboard``, ``embed`` and their kin."""
