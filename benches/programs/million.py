"""How long a report of COUNT events takes, or its peak memory: million.py SOCKSTRACE FOLDER COUNT ms|KiB"""

import json
import os
import resource
import subprocess
import sys
import time

sockstrace, folder, count, unit = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]
stack = [
    {"ip": f"0x55{n:04x}", "module": "/srv/app", "offset": f"0x{n:x}", "function": f"step_{n}", "file": "src/a.c",
     "line": n, "inlined": False} for n in range(6)]
path = os.path.join(folder, "events.jsonl")
with open(path, "w", encoding="ascii") as file:
    for n in range(count):
        leaks = n % 5 != 0
        event = {
            "v": 1, "time": f"2026-01-01T{n // 3600000 % 24:02}:{n // 60000 % 60:02}:{n // 1000 % 60:02}.{n % 1000:03}Z",
            "kind": "syscall", "backend": "seccomp", "pid": 100 + n % 50, "tid": 100 + n % 50, "process": "app",
            "exe": "/srv/app", "syscall": "connect", "abi": "x86_64", "fd": 3,
            "socket": {"family": "inet", "type": "stream", "protocol": "tcp"}, "address": f"203.0.113.{n % 97}:80",
            "verdict": "leak" if leaks else "allowed", "action": "block" if leaks else "continue",
            "reason": "no proxy or rule covers it"}
        if leaks:
            event.update({"class": "outbound", "return": -1, "errno": "EPERM", "stack": stack[n % 3:]})
        file.write(json.dumps(event, separators=(",", ":")) + "\n")
    file.write('{"v":1,"time":"2026-01-01T12:00:00Z","kind":"summary","events":1,"leaks":1,"processes":1,"exit":23}\n')
outputs = [word for name in ("html", "sarif", "junit", "folded") for word in (f"--{name}", os.path.join(folder, name))]
begin = time.monotonic()
subprocess.run([sockstrace, "report", path, *outputs], check=True)
took = time.monotonic() - begin
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss if unit == "KiB" else took * 1000)
