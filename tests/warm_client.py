"""The program that `warm.python` names: has the server fork a process, and stands for it until it ends.

    warm_client.py SOCKET PYTHON ARGUMENTS

Signals go to the forked process, which is killed if this one is. Arguments that the server does not know start PYTHON.
"""

import marshal
import os
import signal
import socket
import sys

where, cold, *arguments = sys.argv[1:]
if not arguments or (arguments[0].startswith("-") and arguments[0] not in ("-c", "-m", "-u")):
    os.execv(cold, [cold, *arguments])

NOT_FORWARDED = {signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD, signal.SIGPIPE, signal.SIGXFSZ, signal.SIGTSTP}
forwarded = [
    number for number in signal.valid_signals() if number in list(signal.Signals) and number not in NOT_FORWARDED
]
ignored = [int(number) for number in forwarded if signal.getsignal(number) is signal.SIG_IGN]
signal.pthread_sigmask(signal.SIG_BLOCK, forwarded)
with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    connection.connect(where)
    request = marshal.dumps((arguments, dict(os.environ), os.getcwd(), ignored, os.getpgrp()))
    socket.send_fds(connection, [request], [0, 1, 2])
    process = int(connection.recv(64))
    for number in forwarded:
        signal.signal(number, lambda number, _: os.kill(process, number))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, forwarded)
    status = int(connection.recv(64))
if status < 0:
    if -status not in (signal.SIGKILL, signal.SIGSTOP):
        signal.signal(-status, signal.SIG_DFL)
    os.kill(os.getpid(), -status)
os._exit(status)
