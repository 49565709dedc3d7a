"""Programs that run inside a sandbox: the standard library alone, started by path, never imported by the toolkit."""

__all__: list[str] = []
