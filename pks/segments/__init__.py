"""Shared memory: segments, rings, recorded streams, slots, waiting, counters. Knows rows of 64-bit words, never their meaning."""
