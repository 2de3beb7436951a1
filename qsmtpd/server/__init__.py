"""qsmtpd-server: a UCSPI server with qsmtpd built in.

It does tcpserver's job for one program.  The master accepts, so that rules and
limits are applied in one place, and hands each connection to a worker: a
process forked from it that has everything imported, read and loaded.

| file | job |
|---|---|
| main.py | the program: start, change of user, the end |
| options.py | the command line |
| user.py | from root to the user that serves |
| sockets.py | the listening sockets: bound here, or systemd's |
| rules.py | tcprules' cdb |
| client.py | one accepted connection: its addresses, its variables |
| names.py | names of addresses |
| status.py | status lines in tcpserver's form |
| worker.py | a process that serves |
| master.py | accepts, hands out, counts, buries |
| check.py | --check |
"""
