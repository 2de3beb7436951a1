"""The client's connection: its bytes, its addresses, and what the UCSPI server says of it."""
