"""qsmtpd: the inbound SMTP child of a UCSPI server, in Python."""

__version__ = "0.1.0"
