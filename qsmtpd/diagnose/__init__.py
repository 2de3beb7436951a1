"""`qsmtpd --check` and `--explain`: what is set, what is wrong, what would be answered."""
