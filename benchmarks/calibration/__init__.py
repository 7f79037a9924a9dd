"""What validation samples make of predicted probabilities: temperatures, conformal sets; and curves of reliability."""
