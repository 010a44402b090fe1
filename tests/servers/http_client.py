"""A small HTTP/1.1 client on plain asyncio streams, for loading servers."""

import asyncio
import contextlib


class Response:
    def __init__(self, status, headers, body):
        self.status = status
        self.headers = headers
        self.body = body


async def read_response(reader, head=False):
    line = await reader.readline()
    if not line:
        raise ConnectionResetError("no response")
    version, status, *_ = line.decode().split()
    assert version == "HTTP/1.1"
    headers = {}
    while (line := await reader.readline()) not in (b"\r\n", b""):
        name, _, value = line.decode("latin-1").partition(":")
        headers[name.strip().lower()] = value.strip()
    if head:
        return Response(int(status), headers, b"")
    if "chunked" in headers.get("transfer-encoding", ""):
        parts = []
        while size := int((await reader.readline()).split(b";")[0], 16):
            parts.append(await reader.readexactly(size))
            assert await reader.readexactly(2) == b"\r\n"
        assert await reader.readexactly(2) == b"\r\n"
        body = b"".join(parts)
    elif "content-length" in headers:
        body = await reader.readexactly(int(headers["content-length"]))
    else:
        body = await reader.read()
    return Response(int(status), headers, body)


class Connection:
    """One keep-alive connection."""

    def __init__(self, address):
        self.address = address

    async def __aenter__(self):
        self.reader, self.writer = await asyncio.open_connection(
            *self.address, limit=1 << 20
        )
        return self

    async def __aexit__(self, *exc_info):
        self.writer.close()
        with contextlib.suppress(ConnectionError):
            await self.writer.wait_closed()

    def send(self, method, path, body=b"", **headers):
        lines = [f"{method} {path} HTTP/1.1", "Host: localhost"]
        headers = {name.replace("_", "-"): v for name, v in headers.items()}
        if body:
            headers["Content-Length"] = len(body)
        lines += [f"{name}: {value}" for name, value in headers.items()]
        self.writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + body)

    async def get(self, path, **headers):
        self.send("GET", path, **headers)
        await self.writer.drain()
        return await read_response(self.reader)

    async def post(self, path, body, **headers):
        self.send("POST", path, body, **headers)
        _, response = await asyncio.gather(
            self.writer.drain(), read_response(self.reader)
        )
        return response

    async def post_chunked(self, path, pieces):
        """The body leaves while the answer may already come."""

        async def send():
            for piece in pieces:
                self.writer.write(b"%x\r\n" % len(piece) + piece + b"\r\n")
                await self.writer.drain()
            self.writer.write(b"0\r\n\r\n")
            await self.writer.drain()

        self.send("POST", path, Transfer_Encoding="chunked")
        _, response = await asyncio.gather(send(), read_response(self.reader))
        return response
