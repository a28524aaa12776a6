"""aiohttp_client.py URL COUNT CONCURRENCY body|json

Prints how many body bytes came, or the sum of the decoded ids.
"""

import asyncio
import json
import sys

import aiohttp


async def work(session, url, turns, decode):
    total = 0
    for _ in turns:
        async with session.get(url) as response:
            response.raise_for_status()
            body = await response.read()
        total += json.loads(body)["id"] if decode else len(body)
    return total


async def main(url, count, concurrency, mode):
    turns = iter(range(int(count)))
    connector = aiohttp.TCPConnector(limit=int(concurrency))
    async with aiohttp.ClientSession(connector=connector) as session:
        workers = (work(session, url, turns, mode == "json") for _ in range(int(concurrency)))
        print(sum(await asyncio.gather(*workers)))


asyncio.run(main(*sys.argv[1:]))
