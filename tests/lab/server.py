#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""A server that answers every HTTP request with the address and port it saw: server.py PORT...

It keeps a connection for as long as the client does, unless asked by HTTP/1.0.
"""

import asyncio
import sys


async def talk(reader, writer):
    peer, port = writer.get_extra_info("peername")[:2]
    body = f"{peer} {port}\n"
    try:
        while request := await reader.readuntil(b"\n"):
            while (await reader.readuntil(b"\n")).strip():
                pass
            writer.write(f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())
            await writer.drain()
            if b"HTTP/1.0" in request:
                break
    except (OSError, asyncio.IncompleteReadError):
        pass
    writer.close()


async def main():
    for port in sys.argv[1:]:
        for address in ("0.0.0.0", "::"):
            await asyncio.start_server(talk, address, int(port), backlog=512)
    print("ready", flush=True)
    await asyncio.Event().wait()


asyncio.run(main())
