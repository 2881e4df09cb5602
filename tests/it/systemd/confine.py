"""Starts a program behind the walls of systemd/acme-proxy.service: confine.py CALL,CALL,... PROGRAM ARGUMENT..."""

import ctypes
import errno
import os
import sys

import seccomp

PR_CAPBSET_DROP = 24
PR_SET_NO_NEW_PRIVS = 38
PR_SET_MDWE = 65
NET_BIND_SERVICE = 10

libc = ctypes.CDLL(None, use_errno=True)


def prctl(option, value):
    if libc.prctl(option, value, 0, 0, 0) != 0:
        return ctypes.get_errno()
    return 0


for capability in range(64):
    if capability != NET_BIND_SERVICE and prctl(PR_CAPBSET_DROP, capability) == errno.EPERM:
        sys.exit("run the tests as root: the capabilities can not be taken away")
if prctl(PR_SET_NO_NEW_PRIVS, 1) != 0:
    sys.exit("no_new_privs can not be set")
# Kernels before 6.3 do not know it.
if prctl(PR_SET_MDWE, 1) not in (0, errno.EINVAL):
    sys.exit("memory that is written and executed can not be forbidden")

rules = seccomp.SyscallFilter(seccomp.ERRNO(errno.EPERM))
for call in sys.argv[1].split(","):
    try:
        rules.add_rule(seccomp.ALLOW, call)
    except RuntimeError:
        pass  # Not one of this architecture.
rules.load()
os.execv(sys.argv[2], sys.argv[2:])
