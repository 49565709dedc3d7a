"""Triton kernels, one module each, with their twins in PyTorch. Import them one by one: Triton loads with the first."""

__all__: list[str] = []
