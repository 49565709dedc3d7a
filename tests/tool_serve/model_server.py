"""An OpenAI-compatible server that plays answers back, in a thread: each a status and the bytes that follow it."""

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def chunk(finish=None, **delta):
    """One event of a stream."""
    return f"data: {json.dumps({'choices': [{'delta': delta, 'finish_reason': finish}]}, ensure_ascii=False)}\n\n"


def call_chunks(number, name, arguments, size=5):
    """A call in pieces, as servers with a parser of their own send it."""
    yield chunk(tool_calls=[{"index": number, "id": f"c{number}", "function": {"name": name, "arguments": ""}}])
    for at in range(0, len(arguments), size):
        yield chunk(tool_calls=[{"index": number, "function": {"arguments": arguments[at : at + size]}}])


DONE = "data: [DONE]\n\n"


@contextmanager
def model_server(answers):
    """Plays `answers`, (status, text), one per request, then 404; yields its URL and the bodies that were asked."""
    waiting, asked = list(answers), []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.0"  # an answer ends with its connection

        def do_GET(self):
            self._say(200, json.dumps({"data": [{"id": "the-model"}]}))

        def do_POST(self):
            asked.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
            status, text = waiting.pop(0) if waiting else (404, "no more answers")
            self._say(status, text)

        def _say(self, status, text):
            self.send_response(status)
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1", asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
