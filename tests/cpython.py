#!/usr/bin/env python3
"""CPython's own tests of sockets, processes, signals and threads, untraced and under both backends.

    tests/cpython.py SOCKSTRACE

No test may fail that does not fail untraced too; what fails has a second try, untraced and traced. Each run
has a network namespace with nothing but loopback. With --find it only tells which Python has the tests
(PYTHON=... chooses one).
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor

# The longest first: they run two at a time.
SUITES = ["test_asyncio", "test_socket", "test_subprocess", "test_signal", "test_threading"]
# Talks to the hypervisor, outside any network namespace.
WITHOUT = "*VSOCKSocketStreamTest*"
MODES = ["--on-leak=log", "--on-leak=block --allow-loopback"]
BACKENDS = ["seccomp", "ptrace"]
# Seconds for a suite, which takes 15 to 70.
LIMIT = 600
AT_ONCE = 2


def find_python():
    check = "import sys, test.test_socket, test.test_asyncio; print(sys.executable)"
    for python in [os.environ.get("PYTHON"), "/usr/bin/python3", "python3"]:
        if python and shutil.which(python):
            found = subprocess.run([python, "-c", check], capture_output=True, text=True)
            if found.returncode == 0:
                return found.stdout.strip()
    return None


class Run:
    """One run of one suite."""

    def __init__(self, python, prefix, suite, tests=()):
        with tempfile.TemporaryDirectory(prefix="sockstrace-cpython-") as home:
            command = [python, "-m", "test", "--verbose", "--timeout=300", f"--ignore={WITHOUT}"]
            command += [f"--match={test}" for test in tests] + [suite]
            inside = ["sh", "-c", 'ip link set lo up && exec "$@"', "sh", *prefix, *command]
            isolated = ["unshare", "--net", "--pid", "--fork", "--mount-proc", "--kill-child", "--"]
            environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
            environment |= {"HOME": home, "TMPDIR": home, "PYTHONDONTWRITEBYTECODE": "1"}
            try:
                ended = subprocess.run(
                    isolated + inside, cwd=home, env=environment, timeout=LIMIT, stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
                output, self.status = ended.stdout, ended.returncode
            except subprocess.TimeoutExpired as expired:
                output, self.status = expired.stdout or b"", "none in time"
        self.output = output.decode(errors="replace")
        # "FAIL: test_x (test.test_y.Class.test_x)", with more words where it is a subtest.
        self.failed = set(re.findall(r"^(?:ERROR|FAIL): (.*)$", self.output, re.M))
        count = re.findall(r"^Ran (\d+) tests?", self.output, re.M)
        self.count = sum(map(int, count))
        # No end (killed, crashed) and no test are failures of their own.
        if not re.search(r"^(?:Tests? result: |== Tests result: |Result: )", self.output, re.M) or not self.count:
            self.failed.add(f"(the suite itself: exit status {self.status})")

    def __str__(self):
        return f"{self.count} tests, {len(self.failed)} failed, exit status {self.status}"


def names(failed):
    return sorted({name.split()[0] for name in failed if not name.startswith("(")})


def main():
    python = find_python()
    if python is None:
        sys.exit("CPython's tests are missing: install libpython3.11-testsuite, or set PYTHON")
    if sys.argv[1:] == ["--find"]:
        return print(python)
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    sockstrace = os.path.realpath(sys.argv[1])
    if os.geteuid() != 0:
        os.execvp("unshare", ["unshare", "--map-root-user", "--", sys.executable, *sys.argv])
    print(subprocess.run([python, "--version"], capture_output=True, text=True).stdout, end="", flush=True)

    def prefix(backend, mode):
        return [sockstrace, f"--backend={backend}", *mode.split(), "-o", "/dev/null", "--"]

    traced = [(backend, mode) for backend in BACKENDS for mode in MODES]
    jobs = [(suite, how) for suite in SUITES for how in [None, *traced]]

    def first(job):
        suite, how = job
        run = Run(python, prefix(*how) if how else [], suite)
        print(f"  {suite:<16} {' '.join(how) if how else 'untraced':<40} {run}", flush=True)
        return run

    with ThreadPoolExecutor(AT_ONCE) as pool:
        runs = dict(zip(jobs, pool.map(first, jobs)))

    passed = failed = 0
    for suite in SUITES:
        native = runs[suite, None]
        for how in traced:
            run = runs[suite, how]
            new = run.failed - native.failed
            if again := names(new):
                print(f"  {suite:<16} {' '.join(how)}: again, alone: {' '.join(again)}", flush=True)
                known = native.failed | Run(python, [], suite, again).failed
                second = Run(python, prefix(*how), suite, again)
                new = {name for name in new if name.startswith("(")} | (second.failed - known)
            if run.count < native.count:
                new.add(f"({native.count - run.count} tests were not run)")
            if new:
                failed += 1
                print(f"NEW FAILURES of {suite} under {' '.join(how)}:")
                print(*sorted(new), sep="\n")
                print(run.output[-20_000:])
            else:
                passed += 1
    print(f"cpython: {passed} passed, {failed} failed")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
