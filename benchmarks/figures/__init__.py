"""One style for every figure: of docs, of boards and of explanations."""
