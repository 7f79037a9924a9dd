"""Tasks on CT volumes: labels, reports and questions."""
