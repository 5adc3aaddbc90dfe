"""The lowest room: numbers, errors, limits, clock, ids and configuration; imports no other room."""
