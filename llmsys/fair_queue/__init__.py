"""Fair scheduling of tenants by tokens served (VTC): policies, a simulator, a filter and an audit."""

__all__: list[str] = []
