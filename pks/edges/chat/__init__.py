"""Alerts for people: what is one, how often it is said, where it is kept and by which ways it goes out."""
