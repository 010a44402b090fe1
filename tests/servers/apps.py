"""The application every server under test runs, as ASGI and for aiohttp.

/            a few bytes
/large?n     n bytes with a Content-Length, in one piece
/chunks?n    n pieces of a kilobyte without a length
/echo        the request body back, and its MD5 in a header
/loop        the class of the running loop
/slow        answers after the file named by X-Gate appears
/crash       raises
"""

import asyncio
import hashlib
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

PIECE = bytes(range(256)) * 4


def loop_name():
    loop = asyncio.get_running_loop()
    return type(loop).__module__.partition(".")[0].encode()


async def gate(path):
    print("gate", flush=True)
    while not os.path.exists(path):
        await asyncio.sleep(0.005)


def large(size):
    return (PIECE * (size // len(PIECE) + 1))[:size]


async def body_of(receive):
    parts = []
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return None
        parts.append(message.get("body", b""))
        if not message.get("more_body"):
            return b"".join(parts)


async def asgi(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return
    path = scope["path"]
    query = scope["query_string"].decode()
    headers = dict(scope["headers"])
    reply = []

    async def answer(body, *extra):
        length = (b"content-length", str(len(body)).encode())
        await send(
            {
                "type": "http.response.start",
                "status": 200,
                "headers": [length, *extra],
            }
        )
        await send({"type": "http.response.body", "body": body})

    if path == "/":
        await answer(b"hello")
    elif path == "/large":
        await answer(large(int(query)))
    elif path == "/chunks":
        await send(
            {"type": "http.response.start", "status": 200, "headers": reply}
        )
        for _ in range(int(query)):
            await send(
                {
                    "type": "http.response.body",
                    "body": PIECE,
                    "more_body": True,
                }
            )
        await send({"type": "http.response.body"})
    elif path == "/echo":
        body = await body_of(receive)
        if body is not None:
            digest = hashlib.md5(body).hexdigest().encode()
            await answer(body, (b"x-md5", digest))
    elif path == "/loop":
        await answer(loop_name())
    elif path == "/slow":
        await gate(headers[b"x-gate"].decode())
        await answer(b"late")
    else:
        raise ZeroDivisionError("the application failed")


def aiohttp_app():
    from aiohttp import web

    routes = web.RouteTableDef()

    @routes.get("/")
    async def hello(request):
        return web.Response(body=b"hello")

    @routes.get("/large")
    async def get_large(request):
        return web.Response(body=large(int(request.query_string)))

    @routes.get("/chunks")
    async def chunks(request):
        response = web.StreamResponse()
        response.enable_chunked_encoding()
        await response.prepare(request)
        for _ in range(int(request.query_string)):
            await response.write(PIECE)
        await response.write_eof()
        return response

    @routes.post("/echo")
    async def echo(request):
        body = await request.read()
        digest = hashlib.md5(body).hexdigest()
        return web.Response(body=body, headers={"x-md5": digest})

    @routes.get("/loop")
    async def loop(request):
        return web.Response(body=loop_name())

    @routes.get("/slow")
    async def slow(request):
        await gate(request.headers["x-gate"])
        return web.Response(body=b"late")

    @routes.get("/crash")
    async def crash(request):
        raise ZeroDivisionError("the application failed")

    @routes.get("/ws")
    async def websocket(request):
        ws = web.WebSocketResponse(max_msg_size=0)
        await ws.prepare(request)
        async for message in ws:
            if message.type is web.WSMsgType.BINARY:
                await ws.send_bytes(message.data)
            else:
                await ws.send_str(message.data)
        return ws

    app = web.Application(client_max_size=1 << 30)
    app.add_routes(routes)
    return app


def serve_aiohttp():
    from aiohttp import web

    web.run_app(
        aiohttp_app(),
        host="127.0.0.1",
        port=int(sys.argv[2]),
        loop=support_loop(),
        print=None,
        shutdown_timeout=10,
        access_log=None,
    )


def support_loop():
    import support

    if sys.argv[1] == "default":
        return None
    return support.factory(sys.argv[1])()


def policy_asyncio():
    pass


def policy_pyloop():
    import warnings

    import pyloop

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        asyncio.set_event_loop_policy(pyloop.EventLoopPolicy())


if __name__ == "__main__":
    serve_aiohttp()
