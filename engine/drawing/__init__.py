"""Facts out of conversations, drawn by a reader model after the turns are stored."""
