"""Fair scheduling of tenants by tokens served (VTC): policies, traces, a filter, a simulator and an audit."""

from llmsys.fair_queue.order import order_lines

__all__ = ["order_lines"]
