"""The DNS, as the filters of a session ask it; see resolver.py."""
