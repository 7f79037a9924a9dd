"""Charts of the pages as SVG; colours and letters are those of the page, so that they follow it into the dark."""
