"""What reads the journal back: a moment's positions and lots, trades with what became of them, names by a catalogue; and its worker.

Commands, the blotter and the gateway ask; this room prints nothing and knows none of them.
"""
