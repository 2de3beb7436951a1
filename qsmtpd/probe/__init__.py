"""starttls-probe: does a server, or a client, believe what was said before TLS?

It shares no code with the server in this package: it has its own reader and its
own TLS, so that it cannot pass over a mistake because it makes the same one.
"""
