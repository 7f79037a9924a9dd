"""The phantom of chest CT: bodies, findings that can be checked, reports and questions from the same facts."""
