"""TLS in one of three ways.

1. In this process, with pyOpenSSL: STARTTLS, or before the greeting (openssl.py).
2. UCSPI-TLS: a helper of the UCSPI server does it when we ask (ucspitls.py).
3. In front of us: the server or a proxy has done it (external.py reads what it says).

provider.py decides which.  Nothing here knows SMTP, and nothing but openssl.py,
context.py and authorities.py imports pyOpenSSL, which costs more than all the
rest of a session.
"""
