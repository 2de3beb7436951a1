"""The programs that we start: the queue program, and those that answer a question."""
