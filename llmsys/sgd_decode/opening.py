"""A backend by the name a user gives it: the engine, a server, or a script; one model or two.

Knows nothing of options.
"""

from dataclasses import replace
from pathlib import Path

from llmsys.sgd_decode.backends import Backend
from llmsys.sgd_decode.http_backend import HttpBackend, is_url
from llmsys.sgd_decode.paced_backend import PacedBackend
from llmsys.sgd_decode.pair_backend import PairBackend
from llmsys.sgd_decode.script_backend import ScriptBackend, read_script
from llmsys.sgd_decode.settings import DecodeSettings

__all__ = ["EMBEDDED", "open_backend", "with_step_time"]

SCRIPT = "script:"
EMBEDDED = "embedded"
GRAPH_MODES = ("auto", "sgd", "sgd-v1")


def open_backend(
    model: str,
    *,
    slots: int,
    grammar: bool,
    small: str | None = None,
    device: str = "auto",
    dtype: str = "auto",
    seed: int = 0,
    deterministic: bool = False,
    clock: str = "virtual",
) -> Backend:
    """A model, or with `small` a pair of models of the same forms.

    `embedded`, a model directory or a GGUF file on the engine; `URL#model` on an OpenAI-like server; `script:FILE`
    plays recorded texts. deterministic: an engine writes the same tokens at any width. clock: a script's time is
    `virtual`, or passes as `real` time does. Raises as `Engine.load` does, BadInput for a script that is none,
    Unavailable for a server that is not there.
    """

    def open_one(name: str) -> Backend:
        if name.startswith(SCRIPT):
            script = ScriptBackend(read_script(Path(name.removeprefix(SCRIPT))), slots=slots)
            return PacedBackend(script) if clock == "real" else script
        if is_url(name):
            return HttpBackend(name, slots=slots, grammar=grammar)
        from llmsys.sgd_decode.engine_backend import EngineBackend

        known = "smollm2" if name == EMBEDDED else name
        return EngineBackend.load(
            known, slots=slots, grammar=grammar, device=device, dtype=dtype, seed=seed, deterministic=deterministic
        )

    large = open_one(model)
    return large if small is None else PairBackend(large, open_one(small))


def with_step_time(settings: DecodeSettings, backend: Backend) -> DecodeSettings:
    """Settings that know the step times of a backend, measured now if need be; unchanged where none are needed."""
    if settings.mode not in GRAPH_MODES or settings.min_gain <= 0:
        return settings
    return replace(settings, step_time=backend.step_time())
