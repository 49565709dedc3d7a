"""The OpenAI-compatible server over a decoder: every question becomes a graph, its parts stream in order.

A request's way: `app` routes it, `bodies` reads it, `room` has it answered in the decoder's thread, `replies` writes
what comes as one body or as events; `faults` says no, `launch` starts and stops it.
"""

from llmsys.sgd_decode.server.app import make_app
from llmsys.sgd_decode.server.launch import Address, serve
from llmsys.sgd_decode.server.room import Room, Tally
from llmsys.sgd_decode.server.service import ServerSettings, Service, check_exposure

__all__ = ["Address", "Room", "ServerSettings", "Service", "Tally", "check_exposure", "make_app", "serve"]
