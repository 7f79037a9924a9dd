"""Rules that read findings, denials, doubts, sides, sizes and places out of English reports."""
