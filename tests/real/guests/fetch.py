"""fetch.py URL [PROXY PROXYPORT]: prints the page; through a SOCKS 5 proxy where one is given."""

import http.client
import socket
import sys
import urllib.parse
import urllib.request

url = urllib.parse.urlsplit(sys.argv[1])
try:
    if len(sys.argv) > 2:
        connection = http.client.HTTPConnection(url.hostname, url.port or 80)
        connection.sock = socket.create_connection((sys.argv[2], int(sys.argv[3])))
        connection.sock.sendall(bytes([5, 1, 0]))
        assert connection.sock.recv(2) == bytes([5, 0])
        name = url.hostname.encode()
        port = (url.port or 80).to_bytes(2, "big")
        connection.sock.sendall(bytes([5, 1, 0, 3, len(name)]) + name + port)
        assert connection.sock.recv(10, socket.MSG_WAITALL)[1] == 0
        connection.request("GET", "/")
        print(connection.getresponse().read().decode(), end="")
    else:
        print(urllib.request.urlopen(sys.argv[1]).read().decode(), end="")
except OSError as error:
    sys.exit(f"fetch.py: {error}")
