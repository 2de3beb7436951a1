"""The protocol, pure: no file descriptor, no clock, no environment, no policy."""
