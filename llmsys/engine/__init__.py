"""The serving engine: one base model, many requests of many tenants in one running batch."""
