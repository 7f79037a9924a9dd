"""OASIS-1, OASIS-2 and OASIS-3, as they are distributed and as Clinica converts them."""
