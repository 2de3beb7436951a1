"""Control files, variables, and the settings that they make."""
