#!/usr/bin/env python3
"""Counts the calls of a program and prints them as a mix for programs/mix.c.

    count.py COMMAND [ARG]...

A browser's page load is what it makes more than when it shows nothing:

    count.py chromium --headless … http://127.0.0.1:8000/ > page
    count.py chromium --headless … about:blank > blank

chromium.tsv and firefox.tsv hold such counts for a page of 120 resources (programs/page.py) through microsocks. A
sendto with a destination is counted as `sendto-named`. What is not one of the calls that mix.c knows is summed up
as `other`. Needs strace."""
import collections
import re
import subprocess
import sys
import tempfile

KNOWN = {"futex", "epoll_wait", "poll", "recvmsg", "sendto", "sendmsg", "connect", "read", "write"}
CALL = re.compile(r"^\d+ +(?:<\.\.\. )?([a-z_0-9]+)(\(| resumed)")
NO_DESTINATION = re.compile(r", NULL, 0(\)| <unfinished)")

with tempfile.NamedTemporaryFile("r", errors="replace") as trace:
    strace = ["strace", "-f", "-qq", "-s", "0", "-e", "signal=none", "-o", trace.name]
    subprocess.run(strace + sys.argv[1:], stdout=subprocess.DEVNULL, check=False)
    counts = collections.Counter()
    for line in trace:
        call = CALL.match(line)
        if not call or call[2] != "(":
            continue
        name = call[1]
        if name == "sendto" and not NO_DESTINATION.search(line):
            name = "sendto-named"
        counts[name if name in KNOWN or name == "sendto-named" else "other"] += 1
for name, count in counts.most_common():
    print(f"{name}\t{count}")
