"""Every file format that crosses a command boundary: one module per format."""

__all__: list[str] = []
