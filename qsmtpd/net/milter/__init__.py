"""Milters, as the MTA has them: their protocol, one conversation, and what they change."""
