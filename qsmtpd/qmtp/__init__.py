"""QMTP and QMQP (https://cr.yp.to/proto.html): mail in netstrings, the message first."""
