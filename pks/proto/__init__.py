"""Messages for other programs: the .proto files, the code generated from them, and the codec between records and messages."""
