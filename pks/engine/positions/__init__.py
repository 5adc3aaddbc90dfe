"""A position in the words of those who read it: from a slot's record to exact decimals."""
