"""qsmtpd-server: a UCSPI server with qsmtpd built in.

It does tcpserver's job for one program.  The master accepts, so that rules and
limits are applied in one place, greets, and hands each client that has said a
first line to a worker: a process forked from it that has everything imported,
read and loaded.

| file | job |
|---|---|
| main.py | the program: its start, the change of user, its exit status |
| options.py | the command line |
| user.py | from root to the user that serves |
| sockets.py | the listening sockets: bound here, or systemd's |
| rules.py | the rules per client, in the cdb of tcprules |
| permissions.py | --check |
| configuration.py | what every worker takes along |
| warmup.py, rehearsal.py | what is done before the fork, so that workers need not |
| heap.py | the memory that workers share with the master |
| master.py | the loop that waits for all of them; the end |
| signals.py | the signals of the master |
| listener.py | accepts, applies rules and limits |
| held.py | clients without a process: greets, waits for a first line |
| events.py, timers.py | what the master waits for: descriptors, and the clock |
| limits.py | how many descriptors the master may have |
| accepted.py | one accepted connection: its addresses, its variables |
| pool.py | the workers: hand out, count, reap, top up |
| fork.py, kept.py | a new worker, what the master knows of it, and what it keeps open |
| board.py | which workers have served their client |
| deaths.py | the log of workers that end with a client in hand |
| reload.py | HUP: the trial, then the new configuration |
| worker.py | a process that serves |
| names.py | host names of addresses |
| status.py | status lines in tcpserver's form |

A connection goes one way: listener, held clients, pool, worker.
"""
