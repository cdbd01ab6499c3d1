"""Other systems' ways of saying the same: so far Hugging Face's arguments and plain Python."""
