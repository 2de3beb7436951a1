"""The fake server: does a client believe what was said before TLS, and to whom does it talk?"""
