"""A fleet of replicas behind one server: processes or Ray actors that may die, move their work and go to zero.

A request's way: `door` numbers it and gives it a seed, `dispatch` finds it a place (`member`) in the order of a fair
policy, `link` carries it to a `replica` as `messages`, and what comes back is its events. `fleet` starts, releases and
empties replicas, which come from `launching` or `ray_launching` and are told what to be by a `spec`; `backend` puts it
all together for a server.
"""

from llmsys.serve_lora.fleet.facts import FleetFacts, ReplicaFacts
from llmsys.serve_lora.fleet.settings import FleetSettings, fleet_settings

__all__ = ["FleetFacts", "FleetSettings", "ReplicaFacts", "fleet_settings"]
