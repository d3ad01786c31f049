"""Uses sockets that are neither TCP nor UDP in every way that sends, to the allowed address and to a foreign one."""

import ctypes
import errno
import os
import socket
import struct

libc = ctypes.CDLL(None, use_errno=True)
INET, INET6 = socket.AF_INET, socket.AF_INET6
SOCK_DCCP, IPPROTO_DCCP = 6, 33
PORT = 9053
TOKEN = b"odd-sockets"
ADDRESSES = {
    INET: ("203.0.113.9", "203.0.113.5"),
    INET6: ("2001:db8::9", "2001:db8::5"),
}
PING = struct.pack("!BBHHH", 8, 0, 0, 0, 0) + TOKEN
DATAGRAMS = [
    ("udplite4", INET, 136, TOKEN),
    ("udplite6", INET6, 136, TOKEN),
    ("ping4", INET, 1, PING),
    ("ping6", INET6, 58, struct.pack("!BBHHH", 128, 0, 0, 0, 0) + TOKEN),
]


def tell(name, way, act):
    try:
        act()
        result = "done"
    except OSError as error:
        result = errno.errorcode[error.errno]
    print(name, way, result, flush=True)


def check(result):
    if result < 0:
        raise OSError(ctypes.get_errno(), "")


def sockaddr(family, ip):
    return struct.pack("=H", family) + struct.pack("!H", PORT) + socket.inet_pton(INET, ip) + bytes(8)


def send_by_file(udp):
    file = os.memfd_create("token")
    os.write(file, TOKEN)
    os.sendfile(udp.fileno(), file, 0, len(TOKEN))


def datagrams(name, family, protocol, payload):
    allowed, foreign = ((ip, PORT) for ip in ADDRESSES[family])

    def opened():
        return socket.socket(family, socket.SOCK_DGRAM, protocol)

    odd = opened()
    tell(name, "sendto-foreign", lambda: odd.sendto(payload, foreign))
    tell(name, "sendto", lambda: odd.sendto(payload, allowed))
    tell(name, "sendmsg-foreign", lambda: odd.sendmsg([payload], [], 0, foreign))
    tell(name, "sendmsg", lambda: odd.sendmsg([payload], [], 0, allowed))
    tell(name, "connect-foreign", lambda: odd.connect(foreign))
    tell(name, "send-unconnected", lambda: odd.send(payload))
    tell(name, "connect", lambda: odd.connect(allowed))
    tell(name, "send", lambda: odd.send(payload))
    tell(name, "write", lambda: os.write(odd.fileno(), payload))
    tell(name, "sendmsg-connected", lambda: odd.sendmsg([payload]))
    tell(name, "connected-sendto-foreign", lambda: odd.sendto(payload, foreign))
    tell(name, "reconnect-foreign", lambda: odd.connect(foreign))
    tell(name, "dissolve", lambda: check(libc.connect(odd.fileno(), bytes(16), 16)))
    tell(name, "send-dissolved", lambda: odd.send(payload))
    if protocol != 136:
        return
    tell(name, "connect-again", lambda: odd.connect(allowed))
    tell(name, "sendfile", lambda: send_by_file(odd))
    other = opened()
    # AF_UNSPEC counts as AF_INET for a send of IPv4, and as no address for one of IPv6.
    unspecified = sockaddr(0, "203.0.113.5")
    tell(name, "sendto-unspecified", lambda: check(libc.sendto(other.fileno(), TOKEN, len(TOKEN), 0, unspecified, 16)))
    if family == INET:
        return
    mapped = ("::ffff:203.0.113.5", PORT)
    tell(name, "sendto-mapped-foreign", lambda: other.sendto(payload, mapped))
    tell(name, "connect-mapped-foreign", lambda: other.connect(mapped))
    tell(name, "connect-inet-foreign", lambda: check(libc.connect(other.fileno(), sockaddr(INET, "203.0.113.5"), 16)))
    # Without the scope: SIN6_LEN_RFC2133.
    short = struct.pack("=H", INET6) + struct.pack("!HI", PORT, 0) + socket.inet_pton(INET6, "2001:db8::5")
    tell(name, "connect-short-foreign", lambda: check(libc.connect(other.fileno(), short, len(short))))
    tell(name, "sendto-short-foreign", lambda: check(libc.sendto(other.fileno(), TOKEN, len(TOKEN), 0, short, 24)))
    tell(name, "sendto-mapped", lambda: other.sendto(payload, ("::ffff:203.0.113.9", PORT)))


def streams(name, family):
    allowed, foreign = ((ip, PORT) for ip in ADDRESSES[family])
    odd = socket.socket(family, SOCK_DCCP, IPPROTO_DCCP)
    odd.settimeout(3)
    tell(name, "connect-foreign", lambda: odd.connect(foreign))
    tell(name, "send", lambda: odd.send(TOKEN))
    # Nobody is there.
    tell(name, "connect", lambda: odd.connect(allowed))


def handed():
    giver = socket.socket(socket.AF_UNIX)
    giver.connect("giver.sock")
    for name in "handed-udplite", "handed-ping", "handed-raw":
        _, (descriptor,), _, _ = socket.recv_fds(giver, 1, 1)
        odd = socket.socket(fileno=descriptor)
        if odd.type == socket.SOCK_RAW:
            tell(name, "connect-foreign", lambda: odd.connect(("203.0.113.5", PORT)))
            tell(name, "sendto-foreign", lambda: odd.sendto(PING, ("203.0.113.9", PORT)))
        else:
            # Whoever made it has connected it.
            payload = TOKEN if odd.proto == 136 else PING
            tell(name, "send-foreign", lambda: odd.send(payload))
            tell(name, "write-foreign", lambda: os.write(odd.fileno(), payload))
            tell(name, "connect", lambda: odd.connect(("203.0.113.9", PORT)))
            tell(name, "send", lambda: odd.send(payload))


receivers = []
for family in (INET, INET6):
    try:
        receiver = socket.socket(family, socket.SOCK_DGRAM, 136)
        receiver.bind((ADDRESSES[family][0], PORT))
        receivers.append(receiver)
    except OSError:
        pass
for kind in DATAGRAMS:
    try:
        datagrams(*kind)
    except OSError as error:
        print(kind[0], "socket", errno.errorcode[error.errno], flush=True)
for name, family in (("dccp4", INET), ("dccp6", INET6)):
    try:
        streams(name, family)
    except OSError as error:
        print(name, "socket", errno.errorcode[error.errno], flush=True)
if os.path.exists("giver.sock"):
    handed()
