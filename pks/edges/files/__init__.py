"""Files of people: trade files and desk folders in, as rows of text and as definitions."""
