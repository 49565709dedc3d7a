"""`llmsys compress`: options in, `llmsys.compress` called, records out."""

import typer

from llmsys.cli import _compress_bench, _compress_decode, _compress_encode, _compress_measure

__all__ = ["app"]

app = typer.Typer(
    help="Weights, KV caches and gradients through video and tensor codecs.",
    rich_markup_mode=None,
    no_args_is_help=True,
)
for verb in _compress_encode.VERBS + _compress_decode.VERBS + _compress_measure.VERBS + _compress_bench.VERBS:
    app.command(verb.__name__.removesuffix("_"))(verb)
