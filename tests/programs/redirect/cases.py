"""What a program can see of its connections. Each case prints what it saw; the test compares a native run
with a redirected one, line by line.

cases.py NAME... runs these, without a name all. The world is that of services.py: 203.0.113.5 and
2001:db8::5, as seen from 198.51.100.1 and 2001:db8:1::1 on veth0.
"""

import array
import errno
import hashlib
import os
import select
import signal
import socket
import struct
import sys
import threading
import time

V4, V6, MAPPED = "203.0.113.5", "2001:db8::5", "::ffff:203.0.113.5"
ECHO, FIRST, RESET, COUNT, URGENT, NOBODY = 7, 19, 20, 21, 22, 9
AF_UNSPEC = b"\0" * 16


def name(number):
    return errno.errorcode.get(number, number)


def tcp(family=socket.AF_INET, nonblocking=False):
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.settimeout(None)
    if nonblocking:
        sock.setblocking(False)
    return sock


def attempt(call, *arguments):
    try:
        return call(*arguments)
    except OSError as error:
        return name(error.errno)


def events(sock, milliseconds=5000, interest=select.POLLIN | select.POLLOUT | select.POLLRDHUP):
    poll = select.poll()
    poll.register(sock, interest)
    return [event for _, event in poll.poll(milliseconds)]


def ends(sock):
    """Who the socket says its ends are, without what differs from run to run."""
    local = attempt(sock.getsockname)
    if isinstance(local, tuple):
        local = (local[0], "port" if local[1] else 0) + local[2:]
    return attempt(sock.getpeername), local


def echo(sock, data=b"hello"):
    sock.setblocking(True)
    sock.sendall(data)
    got = b""
    while len(got) < len(data):
        piece = sock.recv(65536)
        if not piece:
            break
        got += piece
    return got == data or got


def unspec(sock):
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    return name(ctypes.get_errno()) if libc.connect(sock.fileno(), AF_UNSPEC, 16) else 0


FAMILIES = [(socket.AF_INET, V4), (socket.AF_INET6, V6), (socket.AF_INET6, MAPPED)]


def case_blocking():
    for family, address in FAMILIES:
        sock = tcp(family)
        print(address, attempt(sock.connect, (address, ECHO)), ends(sock), echo(sock))
        print(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR), attempt(sock.connect, (address, ECHO)))


def case_blocking_refused():
    for family, address in FAMILIES:
        sock = tcp(family)
        print(address, sock.connect_ex((address, NOBODY)) and "refused", ends(sock)[0])
        print(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR), events(sock, 0))
        print("again", name(sock.connect_ex((address, NOBODY))), "then", sock.connect_ex((address, ECHO)), echo(sock))


def case_nonblocking():
    for family, address in FAMILIES:
        sock = tcp(family, True)
        epoll = select.epoll()
        epoll.register(sock, select.EPOLLOUT | select.EPOLLIN | select.EPOLLET)
        epoll.poll(0)
        twin = sock.dup()
        print(address, name(sock.connect_ex((address, ECHO))))
        print([event for _, event in epoll.poll(5)], events(twin))
        print(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR), ends(twin))
        print(sock.connect_ex((address, ECHO)), name(sock.connect_ex((address, ECHO))), echo(twin))


def case_nonblocking_refused():
    for family, address in FAMILIES:
        sock = tcp(family, True)
        print(address, name(sock.connect_ex((address, NOBODY))))
        print(events(sock), ends(sock)[0])
        print([name(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)) for _ in range(2)])
        print(name(sock.connect_ex((address, NOBODY))), name(sock.connect_ex((address, ECHO))))
        print(events(sock), echo(sock))


def case_nonblocking_refused_told_by_connect():
    sock = tcp(nonblocking=True)
    print(name(sock.connect_ex((V4, NOBODY))), events(sock))
    print(name(sock.connect_ex((V4, NOBODY))))
    print(name(sock.connect_ex((V4, NOBODY))), events(sock))


def case_timeout_of_the_language():
    for port in (ECHO, NOBODY):
        sock = tcp()
        sock.settimeout(5)
        print(name(sock.connect_ex((V4, port))))


def case_bad_arguments():
    print(attempt(tcp(socket.AF_INET).connect, ("224.0.0.1", 7)))
    sock = tcp(socket.AF_INET6)
    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    print("v6only", attempt(sock.connect, (MAPPED, ECHO)), attempt(sock.connect, (V6, ECHO)), echo(sock))
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    four = struct.pack("=H", socket.AF_INET) + struct.pack("!H", ECHO) + socket.inet_aton(V4) + b"\0" * 20
    six = struct.pack("=H", socket.AF_INET6) + struct.pack("!HI", ECHO, 0)
    six += socket.inet_pton(socket.AF_INET6, V6) + b"\0" * 4
    for family, address, length in [
        (socket.AF_INET6, four, 28),
        (socket.AF_INET, six, 28),
        (socket.AF_INET, four, 15),
        (socket.AF_INET, four, 8),
        (socket.AF_INET6, six, 23),
        (socket.AF_INET6, six, 24),
    ]:
        sock = tcp(family)
        result = libc.connect(sock.fileno(), address, length)
        print(family, length, result and name(ctypes.get_errno()))
    listener = tcp()
    listener.bind(("0.0.0.0", 0))
    listener.listen()
    print("listening", attempt(listener.connect, (V4, ECHO)))


def case_bound_before():
    for family, address, local in [
        (socket.AF_INET, V4, ("198.51.100.1", 0)),
        (socket.AF_INET, V4, ("0.0.0.0", 4501)),
        (socket.AF_INET6, V6, ("2001:db8:1::1", 4502)),
        (socket.AF_INET6, MAPPED, ("::", 4503)),
    ]:
        sock = tcp(family)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(local)
        port = sock.getsockname()[1]
        print(attempt(sock.connect, (address, ECHO)), sock.getsockname()[1] == port, ends(sock), echo(sock))


def case_dissolved():
    sock = tcp()
    sock.connect((V4, ECHO))
    print(echo(sock), unspec(sock), ends(sock)[0])
    print(attempt(sock.connect, (V4, ECHO)), ends(sock), echo(sock))


def case_half_closed():
    sock = tcp()
    sock.connect((V4, COUNT))
    sock.sendall(b"x" * 100000)
    sock.shutdown(socket.SHUT_WR)
    print(sock.recv(100), sock.recv(100), attempt(sock.send, b"x"), ends(sock))
    sock = tcp()
    sock.connect((V4, ECHO))
    sock.shutdown(socket.SHUT_RD)
    print(sock.recv(10), attempt(sock.send, b"x"))


def case_speaks_first():
    for family, address in FAMILIES:
        sock = tcp(family)
        sock.connect((address, FIRST))
        text = b""
        while piece := sock.recv(1000):
            text += piece
        print(text, events(sock, 1000), ends(sock))


def case_reset_by_peer():
    sock = tcp()
    sock.connect((V4, RESET))
    sock.sendall(b"go")
    print(attempt(sock.recv, 10), attempt(sock.recv, 10), ends(sock)[0])


def case_reset_by_us():
    sock = tcp()
    sock.connect((V4, ECHO))
    print(echo(sock))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def case_bulk():
    sock = tcp()
    sock.connect((V4, ECHO))
    data = os.urandom(1 << 20) * 8
    digest = hashlib.sha256()

    def receive():
        left = len(data)
        while left:
            piece = sock.recv(1 << 16)
            if not piece:
                break
            digest.update(piece)
            left -= len(piece)

    thread = threading.Thread(target=receive)
    thread.start()
    sock.sendall(data)
    thread.join()
    print(digest.digest() == hashlib.sha256(data).digest())


def case_passed_on():
    left, right = socket.socketpair()
    sock = tcp()
    sock.connect((V4, ECHO))
    pid = os.fork()
    if pid == 0:
        _, ancillary, _, _ = right.recvmsg(1, socket.CMSG_SPACE(4))
        got = socket.socket(fileno=array.array("i", ancillary[0][2])[0])
        inherited = sock
        print(ends(got), ends(inherited), echo(got), flush=True)
        os._exit(0)
    left.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [sock.fileno()]))])
    os.waitpid(pid, 0)
    duplicate = os.dup(sock.fileno())
    other = socket.socket(fileno=duplicate)
    print(ends(other), echo(other))


def case_fast_open():
    for nonblocking in (False, True):
        sock = tcp(nonblocking=nonblocking)
        sent = attempt(sock.sendto, b"hello", socket.MSG_FASTOPEN, (V4, ECHO))
        if sent == "EINPROGRESS":
            events(sock, 5000, select.POLLOUT)
            sent = sock.send(b"hello")
        sock.setblocking(True)
        print(sent, sock.recv(100), ends(sock))
    sock = tcp()
    print("refused", attempt(sock.sendto, b"hello", socket.MSG_FASTOPEN, (V4, NOBODY)))


def case_fast_open_connect():
    sock = tcp()
    sock.setsockopt(socket.IPPROTO_TCP, 30, 1)  # TCP_FASTOPEN_CONNECT
    print(attempt(sock.connect, (V4, ECHO)), echo(sock), ends(sock))


def case_peer_option():
    sock = tcp()
    sock.connect((V4, ECHO))
    SO_PEERNAME = 28
    print(sock.getsockopt(socket.SOL_SOCKET, SO_PEERNAME, 16)[:8])
    print(attempt(sock.getsockopt, socket.SOL_SOCKET, SO_PEERNAME, 64))


def case_short_names():
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    sock = tcp()
    sock.connect((V4, ECHO))
    for room in (0, 4, 8, 16, 100, -1):
        buffer, length = ctypes.create_string_buffer(b"\xff" * 100, 100), ctypes.c_int(room)
        result = libc.getpeername(sock.fileno(), buffer, ctypes.byref(length))
        print(room, result and name(ctypes.get_errno()), length.value, buffer.raw[:20])
    print(libc.getpeername(sock.fileno(), None, ctypes.byref(ctypes.c_int(16))), name(ctypes.get_errno()))
    print(libc.getpeername(sock.fileno(), None, None), name(ctypes.get_errno()))


def case_interrupted():
    hits = []
    signal.signal(signal.SIGALRM, lambda *_: hits.append(1))
    signal.setitimer(signal.ITIMER_REAL, 0.02, 0.02)
    for _ in range(30):
        sock = tcp()
        print(attempt(sock.connect, (V4, ECHO)), echo(sock))
    signal.setitimer(signal.ITIMER_REAL, 0)


def case_threads():
    results = []

    def run():
        sock = tcp()
        results.append((attempt(sock.connect, (V4, ECHO)), echo(sock)))

    threads = [threading.Thread(target=run) for _ in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(set(results), len(results))


def case_many():
    poll, socks = select.epoll(), {}
    for _ in range(300):
        sock = tcp(nonblocking=True)
        if (error := sock.connect_ex((V4, ECHO))) not in (0, errno.EINPROGRESS):
            print(name(error))
        socks[sock.fileno()] = sock
        poll.register(sock, select.EPOLLOUT)
    waiting = set(socks)
    end = time.monotonic() + 20
    while waiting and time.monotonic() < end:
        for fd, _ in poll.poll(1):
            waiting.discard(fd)
            poll.modify(fd, 0)
    print(len(waiting), {sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) for sock in socks.values()})
    print({echo(sock) for sock in socks.values()})


def case_urgent():
    sock = tcp()
    sock.connect((V4, URGENT))
    sock.send(b"before")
    print(sock.send(b"!", socket.MSG_OOB))
    # The service names the urgent byte, and sends one back.
    print(sock.recv(1), events(sock, 5000, select.POLLPRI), attempt(sock.recv, 1, socket.MSG_OOB))
    sock.shutdown(socket.SHUT_WR)
    print(sock.recv(10))


def case_closed_while_connecting():
    for _ in range(20):
        sock = tcp(nonblocking=True)
        sock.connect_ex((V4, ECHO))
        sock.close()
    sock = tcp()
    print(attempt(sock.connect, (V4, ECHO)), echo(sock))


def case_asyncio():
    import asyncio

    async def main():
        async def one(host, port):
            try:
                reader, writer = await asyncio.open_connection(host, port)
            except OSError as error:
                return type(error).__name__, name(error.errno)
            writer.write(b"ping")
            data = await reader.readexactly(4)
            peer = writer.get_extra_info("peername")
            writer.close()
            return data, peer

        print(await asyncio.gather(*[one(V4, ECHO), one(V6, ECHO), one(V4, NOBODY), one(V6, NOBODY)]))

    asyncio.run(main())


# What follows is run by tests of its own, and only by name.


def only_errors():
    port = int(os.environ["PORT"])
    sock = tcp()
    print(name(sock.connect_ex((V4, port))), ends(sock)[0], sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))
    failed = select.POLLIN | select.POLLOUT | select.POLLERR | select.POLLHUP | select.POLLRDHUP
    for told_by_connect in (False, True):
        sock = tcp(nonblocking=True)
        print(name(sock.connect_ex((V4, port))), events(sock) == [failed], end=" ")
        if told_by_connect:
            print(name(sock.connect_ex((V4, port))), name(sock.connect_ex((V4, port))))
        else:
            print(*[name(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)) for _ in range(2)])


def only_silence():
    port = int(os.environ["PORT"])
    sock = tcp(nonblocking=True)
    print(name(sock.connect_ex((V4, port))), events(sock, 100), name(sock.connect_ex((V4, port))))
    sock = tcp()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", 0, 300000))
    start = time.monotonic()
    print(name(sock.connect_ex((V4, port))), 0.2 < time.monotonic() - start < 3)
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    # Without SA_RESTART, and without Python's own repetition.
    signal.signal(signal.SIGALRM, lambda *_: None)
    signal.siginterrupt(signal.SIGALRM, True)
    signal.setitimer(signal.ITIMER_REAL, 0.3)
    sock = tcp()
    address = struct.pack("=H", socket.AF_INET) + struct.pack("!H", port) + socket.inet_aton(V4) + b"\0" * 8
    print(libc.connect(sock.fileno(), address, 16) and name(ctypes.get_errno()))
    sock = tcp()
    sock.settimeout(0.3)
    try:
        sock.connect((V4, port))
    except TimeoutError as error:
        print(error)


def only_credentials():
    one, two = tcp(), tcp()
    print(attempt(one.connect, (V4, ECHO)))
    print(attempt(two.connect, (V4, FIRST)), flush=True)
    if os.fork() == 0:
        print(attempt(tcp().connect, (V4, ECHO)), flush=True)
        os._exit(0)
    os.wait()


def only_not_connections():
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    print("udp", attempt(sock.sendto, b"x", (V4, 53)))
    print("udp connect", attempt(sock.connect, (V4, 53)))
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262)
    print("mptcp", attempt(sock.connect, (V4, ECHO)))


def only_sends_and_ends():
    sock = tcp()
    sock.connect((V4, ECHO))
    sock.sendall(b"x" * (4 << 20))


def only_stays():
    sock = tcp()
    sock.connect((V4, ECHO))
    print("connected", echo(sock), flush=True)
    print("connected", flush=True)
    time.sleep(1)
    for _ in range(50):
        if attempt(sock.send, b"x") != 1:
            break
        time.sleep(0.02)
    else:
        print("still", flush=True)


def only_isolated():
    sock = tcp()
    print(attempt(sock.connect, (V4, ECHO)), sock.getpeername(), echo(sock))
    sock = tcp(nonblocking=True)
    print(name(sock.connect_ex((V4, NOBODY))), events(sock) and name(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)))


def main():
    cases = {key[5:]: value for key, value in globals().items() if key.startswith("case_")}
    for wanted in sys.argv[1:] or cases:
        print(f"-- {wanted}")
        (cases.get(wanted) or globals()[f"only_{wanted}"])()
        sys.stdout.flush()


main()
