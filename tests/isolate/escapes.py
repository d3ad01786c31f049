"""Tries to get out of the network namespace, as root of its user namespace or not. Prints what worked."""
import ctypes, os, socket, subprocess, sys

outside, tracer = sys.argv[1], os.getppid()
libc = ctypes.CDLL(None, use_errno=True)
NEWNET, NEWUSER = 0x40000000, 0x10000000


def attempt(what, act):
    try:
        if act():
            print("ESCAPED:", what)
    except OSError:
        pass


def enter(path):
    def act():
        fd = os.open(path, os.O_RDONLY)
        if libc.setns(fd, NEWNET) != 0 and libc.setns(fd, 0) != 0:
            return False
        return "veth0" in {name for _, name in socket.if_nameindex()}

    return act


def pidfd(pid):
    def act():
        fd = os.pidfd_open(int(pid))
        return libc.setns(fd, NEWNET) == 0 or libc.setns(fd, NEWNET | NEWUSER) == 0

    return act


def runs(*command):
    return lambda: subprocess.run(command, capture_output=True).returncode == 0


for pid in [outside, tracer, 1]:
    attempt(f"setns by /proc/{pid}/ns/net", enter(f"/proc/{pid}/ns/net"))
    attempt(f"setns by pidfd of {pid}", pidfd(pid))
    attempt(f"a link into {pid}'s namespace", runs("ip", "link", "add", "v0", "type", "veth", "peer", "name", "v1", "netns", str(pid)))
    attempt(f"lo moved to {pid}'s", runs("ip", "link", "add", "d0", "type", "dummy") and runs("ip", "link", "set", "d0", "netns", str(pid)))
    # process_vm_readv and a traced process
    attempt(f"ptrace of {pid}", lambda: libc.ptrace(0x4206, int(pid), 0, 0) == 0)
    for fd in range(30):
        def take(fd=fd, pid=pid):
            return libc.syscall(438, os.pidfd_open(int(pid)), fd, 0) >= 0
        attempt(f"pidfd_getfd of {pid}'s {fd}", take)
    attempt(f"descriptors of {pid}", lambda: [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in range(3)])
    attempt(f"memory of {pid}", lambda: open(f"/proc/{pid}/mem", "rb+"))
attempt("a vsock", lambda: socket.socket(40, socket.SOCK_STREAM))
print("interfaces", sorted(name for _, name in socket.if_nameindex() if name != "d0"))
print("done")
