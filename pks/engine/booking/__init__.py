"""Booking: what may become an event, in which place, and what was booked before. Pure; the capture worker feeds it."""
