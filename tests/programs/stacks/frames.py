"""Says what it runs, one function a line, innermost first, and stays there."""

import asyncio
import sys
import threading
import time


def say(frame):
    lines = []
    while frame is not None:
        code = frame.f_code
        name = getattr(code, "co_qualname", code.co_name)
        lines.append("%s\t%s\t%d" % (name, code.co_filename, frame.f_lineno))
        frame = frame.f_back
    print("\n".join(lines) + "\nready", flush=True)


class Outer:
    class Ünicode:
        def méthode(self, depth):
            if depth:
                return self.méthode(
                    depth
                    - 1
                )
            say(sys._getframe()); time.sleep(1000)  # fmt: skip

        def __call__(self, _):
            return self.méthode(3)


def generator():
    for item in [1]:
        yield sorted([item, 2], key=Outer.Ünicode())


def delegating():
    yield from generator()


def plain():
    try:
        [next(delegating()) for _ in range(1)]
    finally:
        pass


async def inner():
    await asyncio.sleep(0)
    plain()


async def outer():
    task = asyncio.ensure_future(inner())
    await asyncio.sleep(0)
    await task


def coroutines():
    asyncio.run(outer())


def thread():
    worker = threading.Thread(target=plain)
    worker.start()
    worker.join()


def long():
    source = "def far(say):\n" + "    x = 1\n" * 700 + "    say(); sleep(1000)\n" + "    x = 2\n" * 300
    names = {"sleep": time.sleep}
    exec(compile(source, "/made/up.py", "exec"), names)
    names["far"](lambda: say(sys._getframe(1)))


def imported():
    class Finder:
        def find_spec(self, name, path=None, target=None):
            plain()

    sys.meta_path.insert(0, Finder())
    import nowhere  # noqa: F401


{"plain": plain, "coroutines": coroutines, "thread": thread, "long": long, "imported": imported}[sys.argv[1]]()
