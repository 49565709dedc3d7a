"""Put an engine's outside parts together: device, weights, tokenizer, adapter slots, runner.

Knows nothing about requests; everything heavy is imported when it is needed.
"""

__all__: list[str] = []
