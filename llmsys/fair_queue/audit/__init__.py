"""Was it fair? The theory's bounds, checked on any event log."""

from llmsys.fair_queue.audit.report import PAIRS_AMONG, Check, Report, check, check_file
from llmsys.fair_queue.audit.tenants import TenantReport, jain_index
from llmsys.fair_queue.audit.timeline import service_over_time

__all__ = ["PAIRS_AMONG", "Check", "Report", "TenantReport", "check", "check_file", "jain_index", "service_over_time"]
