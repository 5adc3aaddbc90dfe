"""Lot matching: positions and lots as a fold of events, forwards as they arrive and again from the past when one is corrected."""
