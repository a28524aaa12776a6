"""A server that answers GET /LIMIT/SECONDS as often as that in any window of so many seconds.

What is more gets 429. Listens on a free loopback port and prints it.
"""

import asyncio
import collections
import time

ANSWER = b"HTTP/1.1 %d X\r\nContent-Length: 2\r\n\r\n{}"
ledgers = collections.defaultdict(collections.deque)  # path → when it was asked for


def status(path):
    limit, seconds = (int(part) for part in path.strip("/").split("/"))
    now, ledger = time.monotonic(), ledgers[path]
    while ledger and ledger[0] <= now - seconds:
        ledger.popleft()
    if len(ledger) >= limit:
        return 429
    ledger.append(now)
    return 200


async def serve(reader, writer):
    try:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            writer.write(ANSWER % status(head.split()[1].decode()))
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()


async def main():
    server = await asyncio.start_server(serve, "127.0.0.1", 0, backlog=128)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


asyncio.run(main())
