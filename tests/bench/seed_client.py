"""seed_client.py sequential|threads|aiohttp FILE: fetches each of the URLs in FILE.

Prints how many body bytes came.
"""

import sys


def get(url):
    import urllib.request

    with urllib.request.urlopen(url) as response:
        return len(response.read())


def sequential(urls):
    return sum(get(url) for url in urls)


def threads(urls):
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(3) as pool:
        return sum(pool.map(get, urls))


def aiohttp(urls):
    import asyncio

    import aiohttp

    async def fetch(session, url):
        async with session.get(url) as response:
            response.raise_for_status()
            return len(await response.read())

    async def fetch_all():
        async with aiohttp.ClientSession() as session:
            return sum(await asyncio.gather(*(fetch(session, url) for url in urls)))

    return asyncio.run(fetch_all())


def main(way, path):
    with open(path, encoding="ascii") as lines:
        urls = lines.read().split()
    print({"sequential": sequential, "threads": threads, "aiohttp": aiohttp}[way](urls))


main(*sys.argv[1:])
