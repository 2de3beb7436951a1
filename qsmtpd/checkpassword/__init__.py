"""qsmtpd-checkpassword: a checkpassword-compatible program, and the editor of its users file."""
