"""The commands that are dialogues of their own."""
