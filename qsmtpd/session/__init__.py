"""An SMTP session: from the greeting to the goodbye."""
