"""`llmsys serve-lora`: options in, `llmsys.serve_lora` called, records out."""

import typer

from llmsys.cli._serve_lora_adapters import adapters

app = typer.Typer(help="Many LoRA adapters on one base model, in one batch.", rich_markup_mode=None)
app.add_typer(adapters, name="adapters")
