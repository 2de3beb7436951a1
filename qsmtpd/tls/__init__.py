"""TLS through one of three doors.

1. In this process, with pyOpenSSL: STARTTLS, or before the greeting (tunnel.py).
2. UCSPI-TLS: a helper of the UCSPI server does it when we ask (helper.py).
3. Already there: the server or a proxy in front did it (environ.py reads what it says).

door.py decides which.  Nothing here knows SMTP, and nothing but tunnel.py and
context.py imports pyOpenSSL, which costs more than all the rest of a session.
"""
