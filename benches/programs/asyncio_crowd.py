"""asyncio_crowd.py PORT COUNT: so many connections to a web server on loopback, 200 at a time."""
import asyncio
import sys

port, count = int(sys.argv[1]), int(sys.argv[2])


async def fetch(turns):
    async with turns:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /r/1.svg HTTP/1.0\r\n\r\n")
        await reader.read()
        writer.close()


async def main():
    turns = asyncio.Semaphore(200)
    await asyncio.gather(*(fetch(turns) for _ in range(count)))


asyncio.run(main())
