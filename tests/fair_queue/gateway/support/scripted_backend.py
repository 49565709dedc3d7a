"""A server on a real socket that answers as each request's `script` says, and remembers what it was asked.

Runs in a thread with a loop of its own. Keys of `script`, all optional: tokens, delay_s (per token), gate (wait for
`open_gate(name)` before the first byte; `gate_at` tokens later instead), status, die (cut the connection after so many
tokens), usage (false: never report it), prompt_tokens, raw (pieces of a body, sent as they stand, each flushed).
"""

import asyncio
import json
import threading
from contextlib import suppress


class Seen:
    """One request as the backend saw it."""

    def __init__(self, path, headers, raw):
        self.path = path
        self.headers = headers
        self.raw = raw
        self.body = json.loads(raw) if raw else {}
        self.script = self.body.get("script", {})
        self.tokens = 0
        self.complete = False
        self.started = threading.Event()
        self.left = threading.Event()


class ScriptedBackend:
    """`slots` requests run at once; the others wait first come, first served, as in a model server."""

    def __init__(self, *, slots=10_000, port=0):
        self.seen = []
        self.healthy = True
        self.connections = 0
        self.port = port
        self._slots = slots
        self._gates = {}
        self._ready = threading.Event()
        self._arrived = threading.Condition()
        self._writers = set()
        self._loop = None
        self._waiting = 0

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    @property
    def served(self):
        """The queued requests among those seen, in order of arrival here."""
        return [one for one in self.seen if one.path.startswith("/v1/") and one.path != "/v1/models"]

    def __enter__(self):
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        assert self._ready.wait(20)
        return self

    def __exit__(self, *_):
        self.stop()

    def stop(self):
        """Close the port and cut every connection, as a crash does."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._end.set)
            self._thread.join(20)
            self._loop = None

    def open_gate(self, name):
        self._loop.call_soon_threadsafe(self._gate(name).set)

    def open_when(self, count, name):
        """Open a gate once so many requests have arrived."""
        threading.Thread(target=lambda: (self.wait_for(count, 120), self.open_gate(name)), daemon=True).start()

    def wait_for(self, count, timeout_s=30):
        """Block until so many queued requests have arrived; returns them."""
        with self._arrived:
            assert self._arrived.wait_for(lambda: len(self.served) >= count, timeout_s), len(self.served)
            return self.served[:count]

    def _run(self):
        asyncio.run(self._serve())

    async def _serve(self):
        self._loop, self._end = asyncio.get_running_loop(), asyncio.Event()
        self._room = asyncio.Semaphore(self._slots)
        server = await asyncio.start_server(self._connection, "127.0.0.1", self.port, backlog=2048)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._end.wait()
        server.close()
        for writer in list(self._writers):
            writer.transport.abort()

    def _gate(self, name):
        return self._gates.setdefault(name, asyncio.Event())

    async def _connection(self, reader, writer):
        self._writers.add(writer)
        self.connections += 1
        with suppress(OSError, asyncio.IncompleteReadError):
            while True:
                seen = await self._request(reader)
                with self._arrived:
                    self.seen.append(seen)
                    self._arrived.notify_all()
                watcher = asyncio.ensure_future(self._watch(reader, seen))
                try:
                    await self._answer(writer, seen)
                finally:
                    watcher.cancel()
                    if not seen.complete:
                        seen.left.set()
        self._writers.discard(writer)
        writer.close()

    async def _watch(self, reader, seen):
        """Notice a client that leaves: the next request never comes before the answer is complete."""
        while not reader.at_eof() and reader.exception() is None:
            await asyncio.sleep(0.002)
        seen.left.set()

    async def _request(self, reader):
        head = await reader.readuntil(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines if line)}
        raw = await reader.readexactly(int(headers.get("content-length", 0)))
        return Seen(first.split()[1], headers, raw)

    async def _answer(self, writer, seen):
        if not seen.path.startswith("/v1/") or seen.path == "/v1/models":
            await self._small(writer, seen)
            return
        self._waiting += 1
        async with self._room:
            self._waiting -= 1
            seen.started.set()
            script = seen.script
            if "gate" in script and "gate_at" not in script:
                await _first(self._gate(script["gate"]).wait(), _event(seen.left))
            if seen.left.is_set():
                return
            if "status" in script:
                await _write(writer, _json_answer(script["status"], {"error": {"message": "as scripted"}}))
            elif "raw" in script:
                await self._raw(writer, script["raw"])
            elif seen.body.get("stream"):
                await self._stream(writer, seen)
            else:
                await self._whole(writer, seen)
        seen.complete = not seen.left.is_set()

    async def _small(self, writer, seen):
        if seen.path == "/health":
            await _write(writer, _json_answer(200 if self.healthy else 503, {}))
        elif seen.path == "/metrics":
            text = f'# TYPE vllm:num_requests_waiting gauge\nvllm:num_requests_waiting{{m="x"}} {self._waiting}\n'
            await _write(writer, _answer(200, text.encode(), "text/plain"))
        else:
            await _write(writer, _json_answer(200, {"path": seen.path, "data": []}))
        seen.complete = True

    async def _raw(self, writer, pieces):
        await _write(writer, SSE_HEAD)
        for piece in pieces:
            await _write(writer, _chunk(piece.encode("latin-1")))
            await asyncio.sleep(0)
        await _write(writer, b"0\r\n\r\n")

    async def _stream(self, writer, seen):
        script, total = seen.script, seen.script.get("tokens", 4)
        await _write(writer, SSE_HEAD + _chunk(event({"delta": {"role": "assistant"}})))
        for number in range(total):
            if script.get("die") == number:
                writer.transport.abort()
                return
            if script.get("gate_at") == number:
                await _first(self._gate(script["gate"]).wait(), _event(seen.left))
            if script.get("delay_s"):
                await asyncio.sleep(script["delay_s"])
            if seen.left.is_set():
                return
            seen.tokens += 1
            await _write(writer, _chunk(event({"delta": {"content": script.get("text", "tok ")}})))
        last = event({"delta": {}, "finish_reason": "stop"})
        if script.get("usage", True) and (seen.body.get("stream_options") or {}).get("include_usage"):
            last += usage_event(script.get("prompt_tokens", 7), total)
        await _write(writer, _chunk(last) + _chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n")

    async def _whole(self, writer, seen):
        total = seen.script.get("tokens", 4)
        for _ in range(total if seen.script.get("delay_s") else 0):
            await asyncio.sleep(seen.script["delay_s"])
            if seen.left.is_set():
                return
            seen.tokens += 1
        seen.tokens = total
        body = {"choices": [{"message": {"content": "tok " * total}}]}
        if seen.script.get("usage", True):
            body["usage"] = {"prompt_tokens": seen.script.get("prompt_tokens", 7), "completion_tokens": total}
        await _write(writer, _json_answer(200, body))


SSE_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\nx-from: backend\r\n"
    b"transfer-encoding: chunked\r\n\r\n"
)


def event(choice):
    body = {
        "id": "c",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "m",
        "choices": [{"index": 0} | choice],
    }
    return b"data: " + json.dumps(body, separators=(",", ":")).encode() + b"\n\n"


def usage_event(prompt_tokens, output_tokens):
    usage = {"prompt_tokens": prompt_tokens, "completion_tokens": output_tokens}
    body = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [], "usage": usage}
    return b"data: " + json.dumps(body, separators=(",", ":")).encode() + b"\n\n"


def _chunk(data):
    return b"%x\r\n%b\r\n" % (len(data), data)


def _answer(status, body, kind):
    head = f"HTTP/1.1 {status} X\r\ncontent-type: {kind}\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


def _json_answer(status, body):
    return _answer(status, json.dumps(body).encode(), "application/json")


async def _write(writer, data):
    writer.write(data)
    await writer.drain()


async def _event(event):
    while not event.is_set():
        await asyncio.sleep(0.002)


async def _first(*waits):
    tasks = [asyncio.ensure_future(one) for one in waits]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()
