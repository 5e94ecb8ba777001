"""The machine around: its files, and the terminal."""
