"""Many clients at once: closed loops of chat requests, each on a connection that it keeps."""

import asyncio
import json
import time

from gateway_process import KEYS, chat_body


class Answers:
    """What a crowd got: (status, body) of every answer, seconds to the first byte, and answers cut short."""

    def __init__(self):
        self.whole = []
        self.first_byte_s = []
        self.cut = 0


async def ask(reader, writer, tenant, body, answers):
    """One request on an open connection; False if the connection ended before the answer did."""
    raw = json.dumps(body).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEYS[tenant]}\r\n"
    start = time.perf_counter()
    writer.write(f"{head}content-length: {len(raw)}\r\n\r\n".encode() + raw)
    try:
        answer = (await reader.readuntil(b"\r\n\r\n")).lower()
        answers.first_byte_s.append(time.perf_counter() - start)
        answers.whole.append((int(answer.split()[1]), await _body(reader, answer)))
    except (OSError, asyncio.IncompleteReadError):
        answers.cut += 1
        return False
    return b"connection: close" not in answer


async def _body(reader, head):
    if b"transfer-encoding: chunked" not in head:
        length = int(head.partition(b"content-length:")[2].split()[0])
        return await reader.readexactly(length)
    parts = []
    while size := int(await reader.readuntil(b"\n"), 16):
        parts.append(await reader.readexactly(size))
        await reader.readexactly(2)
    await reader.readexactly(2)
    return b"".join(parts)


async def repeat(port, tenant, script, answers, turns, **body):
    """Ask once per turn; a connection that ends is opened again."""
    reader = writer = None
    for _ in turns:
        try:
            if writer is None:
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            answers.cut += 1
            return
        if not await ask(reader, writer, tenant, chat_body(script, **body), answers):
            writer.close()
            writer = None
    if writer is not None:
        writer.close()


def turns_for(seconds):
    """A turn again and again until so many seconds have passed."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        yield


def crowd(port, groups, *, seconds=None, rounds=None):
    """Closed loops in groups of (tenant, how many, script, body), for some seconds or rounds: {tenant: Answers}."""
    answers = {tenant: Answers() for tenant, *_ in groups}

    async def run():
        await asyncio.gather(
            *(
                repeat(port, tenant, script, answers[tenant], turns_for(seconds) if seconds else range(rounds), **body)
                for tenant, count, script, body in groups
                for _ in range(count)
            )
        )

    asyncio.run(run())
    return answers
