"""Tables of cohorts, what readers report, and what tables alone predict."""
