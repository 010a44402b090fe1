"""A plain ASGI application, without dependencies.

    uvicorn --app-dir examples app:app --loop pyloop:new_event_loop

GET /        a page that says which event loop serves it
GET /json    the same as JSON
GET /stream  ten lines, a tenth of a second apart, chunk by chunk
POST /echo   the request's body, streamed back as it arrives
"""

import asyncio
import json
import platform

PAGE = """<!doctype html>
<title>pyloop</title>
<h1>Hello from {loop}</h1>
<p>{python} &middot; <a href="/json">/json</a> &middot;
<a href="/stream">/stream</a></p>
"""


def about():
    loop = type(asyncio.get_running_loop())
    python = f"{platform.python_implementation()} {platform.python_version()}"
    return {"loop": f"{loop.__module__}.{loop.__qualname__}", "python": python}


async def body_of(receive):
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        more = message.get("more_body", False)
        yield message.get("body", b"")


async def ticks(receive):
    for number in range(10):
        yield b"tick %d\n" % number
        await asyncio.sleep(0.1)


async def whole(body):
    yield body


def respond(method, path, receive):
    """Returns status, content type and an asynchronous iterator of chunks."""
    if method == "GET" and path == "/":
        page = PAGE.format(**about()).encode()
        return 200, b"text/html; charset=utf-8", whole(page)
    if method == "GET" and path == "/json":
        body = json.dumps(about()).encode() + b"\n"
        return 200, b"application/json", whole(body)
    if method == "GET" and path == "/stream":
        return 200, b"text/plain", ticks(receive)
    if method == "POST" and path == "/echo":
        return 200, b"application/octet-stream", body_of(receive)
    return 404, b"text/plain", whole(b"not found\n")


async def lifespan(receive, send):
    while True:
        message = await receive()
        await send({"type": message["type"] + ".complete"})
        if message["type"] == "lifespan.shutdown":
            return


async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await lifespan(receive, send)
        return
    assert scope["type"] == "http"
    status, kind, chunks = respond(scope["method"], scope["path"], receive)
    start = {"type": "http.response.start", "status": status}
    await send({**start, "headers": [(b"content-type", kind)]})
    async for chunk in chunks:
        part = {"type": "http.response.body", "body": chunk}
        await send({**part, "more_body": True})
    await send({"type": "http.response.body"})
