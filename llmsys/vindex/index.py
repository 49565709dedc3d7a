"""One durable index of vectors for many tenants: build, open, search, change, compact.

A change is in the log before it counts; it is durable when the method returns, or when the `batch` around it ends.
Readers see the snapshot and the log as they were when they opened. Knows neither arguments nor printing.
"""

import os
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from llmsys.errors import BadInput, UsageFault
from llmsys.vindex import index_files
from llmsys.vindex.cluster_tree import TreeShape
from llmsys.vindex.device_scan import DeviceScan
from llmsys.vindex.index_files import Head, PlanRecord
from llmsys.vindex.intake import Access, check_access, check_ids, check_tenant, present_ids
from llmsys.vindex.metric import check_metric, kept, prepared
from llmsys.vindex.operations import Add, Delete, DropTenant, Grant, Operation, Revoke, encode
from llmsys.vindex.scan import Effort
from llmsys.vindex.search import Asked, Hits, ask, planned, visible
from llmsys.vindex.slot_store import Id
from llmsys.vindex.state import State, build_state, compacted, retrained
from llmsys.vindex.view_cache import ViewCache
from llmsys.vindex.wal import Log

__all__ = ["Index"]


class Index:
    """An open index; a context manager. Mode "w" holds the writer's lock until `close`."""

    def __init__(  # noqa: PLR0917
        self,
        path: Path,
        head: Head,
        state: State,
        log: Log | None,
        lock: int | None,
        good: int,
        torn: int,
        device: DeviceScan | None = None,
    ) -> None:
        """Use `build` or `open`."""
        self.path, self.state, self.torn_bytes, self._good = path, state, torn, good
        self._head, self._log, self._lock = head, log, lock
        self._batched = False
        self._views = ViewCache()
        self.guard = threading.RLock()
        self.device = device

    @classmethod
    def build(
        cls,
        path: str | Path,
        vectors: NDArray[Any],
        ids: Sequence[Id] | NDArray[Any] | None = None,
        access: Access | None = None,
        *,
        metric: str = "cosine",
        dtype: str = "f32",
        shape: TreeShape | None = None,
        seed: int = 0,
        overwrite: bool = False,
    ) -> "Index":
        """Write an index of vectors [n, d] and open it for writing.

        Without ids a row's number is its id. dtype "f16" keeps vectors as float16, in half of the memory. `overwrite`
        replaces an index, and nothing else. Raises BadInput for data that does not fit, FileExistsError where something
        is in the way.
        """
        rows = kept(prepared(vectors, check_metric(metric), "vectors"), dtype, "vectors")
        named = check_ids(ids, len(rows))
        granted = check_access(access, named)
        state = build_state(rows, named, granted, metric=metric, shape=shape or TreeShape(), seed=seed)
        place = Path(path)
        if overwrite and place.is_dir() and any(place.iterdir()):
            lock = index_files.lock(place)
            try:
                index_files.replace(place, Head("vindex", 1, index_files.read_head(place).generation), state)
            finally:
                os.close(lock)
        else:
            index_files.create(place, compacted(state))
        return cls.open(place, mode="w")

    @classmethod
    def open(
        cls, path: str | Path, mode: str = "r", *, verify: bool = False, device: str = "cpu", wait_s: float = 0
    ) -> "Index":
        """Open an index for reading ("r") or as its one writer ("w"); `verify` reads every byte against its checksum.

        A writer waits up to `wait_s` for another one to end.

        On a device other than "cpu" every search compares all that is visible (see `device_scan`).

        `torn_bytes` then says how much of an unfinished last record was dropped. Raises BadInput for what is no index,
        Corrupt, and Locked where another process writes.
        """
        place = Path(path)
        if mode not in ("r", "w"):
            raise ValueError(f"mode is {mode!r}; expected 'r' or 'w'")
        scan = None if device == "cpu" else DeviceScan(device)
        if mode == "r":
            head, state, good, torn = index_files.read_state(place, verify=verify)
            return cls(place, head, state, None, None, good, torn, scan)
        index_files.read_head(place)
        lock = index_files.lock(place, wait_s)
        try:
            head, state, good, torn = index_files.read_state(place, verify=verify)
            index_files.remove_strays(place, head)
            return cls(place, head, state, index_files.open_log(place, head, good), lock, good, torn, scan)
        except BaseException:
            os.close(lock)
            raise

    def __enter__(self) -> "Index":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __len__(self) -> int:
        return self.state.store.live

    @property
    def seq(self) -> int:
        """Number of the last operation."""
        return self.state.seq

    def summary(self) -> dict[str, int]:
        """How many vectors, tenants and grants, and the number of the last operation."""
        state = self.state
        return {"vectors": len(self), "tenants": len(state.tenants()), "grants": state.grants(), "seq": state.seq}

    @property
    def plans(self) -> tuple[PlanRecord, ...]:
        """What `tune` measured."""
        return self._head.plans

    @property
    def log_bytes(self) -> int:
        """Size of the log behind the snapshot."""
        return (self.path / self._head.log).stat().st_size

    def search(
        self,
        queries: NDArray[Any],
        tenants: str | Sequence[str | None] | None = None,
        k: int = 10,
        *,
        where: str | None = None,
        recall: float | None = 0.95,
        effort: Effort | None = None,
        threads: int = 1,
    ) -> Hits:
        """The k nearest vectors to queries [m, d] that each one's tenant may see, fewer only where it sees fewer.

        `tenants` is one for all queries, one for each, or None for every vector; `where` a predicate over labels (see
        `where`) within that. `effort` says how far to go; else `recall` takes the plan that `tune` measured for it, and
        everything is compared where there is none or recall is None. Other threads may change the index meanwhile: an
        answer holds for the moment of the call. Raises as `search.ask` does.
        """
        return self.asked(queries, tenants, k, where=where, recall=recall, effort=effort).hits(threads, self.device)

    def asked(
        self,
        queries: NDArray[Any],
        tenants: str | Sequence[str | None] | None = None,
        k: int = 10,
        *,
        where: str | None = None,
        recall: float | None = 0.95,
        effort: Effort | None = None,
    ) -> Asked:
        """A search (see `search`) that is taken now and can be run later, on any thread, whatever changes meanwhile."""
        plans = [] if effort is not None else self._plans_for(recall, k)
        with self.guard:
            return ask(self.state, queries, tenants, k=k, where=where, effort=effort, plans=plans, views=self._views)

    def planned(
        self, tenant: str | None, k: int, *, where: str | None, recall: float | None, effort: Effort | None
    ) -> tuple[int, Effort | None]:
        """How many vectors such a search may see, and the effort that it takes; None is the exact scan."""
        with self.guard:
            seen = visible(self.state, tenant, where, self._views)
        count = 0 if seen is None else len(seen)
        exact = self.device is not None or count == 0
        return count, None if exact else effort or planned(self._plans_for(recall, k), count)

    def _plans_for(self, recall: float | None, k: int) -> list[PlanRecord]:
        """The plans of the lowest recall that is enough."""
        fitting = [] if recall is None else [plan for plan in self.plans if plan.recall >= recall and plan.k >= k]
        lowest = min((plan.recall for plan in fitting), default=None)
        return [plan for plan in fitting if plan.recall == lowest]

    def add(
        self,
        vectors: NDArray[Any],
        ids: Sequence[Id] | NDArray[Any],
        access: Access | None = None,
        *,
        upsert: bool = False,
    ) -> dict[str, int]:
        """Add vectors [n, d]. An id that is there is an error; with `upsert` it is replaced.

        A replaced one keeps its tenants unless some are given. Returns how many were added and how many replaced.
        Raises BadInput; then nothing is added.
        """
        store = self.state.store
        rows = prepared(vectors, store.metric, "vectors", store.vectors.shape[1])
        kept(rows, store.dtype, "vectors")
        named = check_ids(ids, len(rows), store.id_type)
        granted = check_access(access, named)
        with self._changing():
            old = [row for row, one in enumerate(named) if one in store.slot_of]
            if old and not upsert:
                raise BadInput(f"id {named[old[0]]!r}", "is in the index already", "a new id, or --upsert")
            for row in old:
                one = named[row]
                if access is None or (isinstance(access, Mapping) and one not in access):
                    granted[row] = self.state.tenants_of(store.slot_of[one])
            self._change(Add(named, granted, rows.tobytes()), needed=bool(named))
        return {"added": len(named) - len(old), "replaced": len(old)}

    def delete(self, ids: Iterable[Id], *, skip_missing: bool = False) -> dict[str, int]:
        """Delete vectors for everybody. Returns how many, and how many ids were missing. Raises NotFound for those."""
        with self._changing():
            there, missing = present_ids(self.state.store, ids, skip_missing=skip_missing)
            self._change(Delete(there), needed=bool(there))
        return {"deleted": len(there), "missing": missing}

    def grant(self, ids: Iterable[Id], tenant: str, *, skip_missing: bool = False) -> dict[str, int]:
        """Let a tenant see vectors. Returns how many were granted, seen already, and not there."""
        check_tenant(tenant)
        with self._changing():
            there, missing = present_ids(self.state.store, ids, skip_missing=skip_missing)
            new = [one for one, seen in zip(there, self._sees(tenant, there), strict=True) if not seen]
            self._change(Grant(new, tenant), needed=bool(new))
        return {"granted": len(new), "already": len(there) - len(new), "missing": missing}

    def revoke(self, ids: Iterable[Id], tenant: str, *, skip_missing: bool = False) -> dict[str, int]:
        """Let a tenant see vectors no more. Returns how many were revoked, not seen before, and not there."""
        with self._changing():
            there, missing = present_ids(self.state.store, ids, skip_missing=skip_missing)
            seen = [one for one, is_seen in zip(there, self._sees(tenant, there), strict=True) if is_seen]
            self._change(Revoke(seen, tenant), needed=bool(seen))
        return {"revoked": len(seen), "already": len(there) - len(seen), "missing": missing}

    def drop_tenant(self, tenant: str, *, orphans: Literal["keep", "delete"] = "keep") -> dict[str, int]:
        """Revoke everything from a tenant. Returns how many vectors it saw, and how many were deleted.

        The vectors stay, unless orphans is "delete": then those go that no other tenant sees.
        """
        with self._changing():
            found = self.state.tenant(tenant)
            ids = self.state.store.names(self.state.orphans(tenant)) if orphans == "delete" else []
            count = len(found) if found is not None else 0
            self._change(DropTenant(tenant), needed=found is not None)
            self._change(Delete(ids), needed=bool(ids))
        return {"revoked": count, "deleted": len(ids)}

    @contextmanager
    def batch(self) -> Iterator[None]:
        """Make the changes of the block durable with one sync at its end, also if it ends with an error."""
        self._batched = True
        try:
            yield
        finally:
            self._batched = False
            self._writable().commit()

    def refresh(self) -> int:
        """Take over what another process has written since; the number of the last operation. For readers."""
        if self._log is not None:
            raise UsageFault(f"{self.path}: open for writing; expected mode 'r'")
        with self.guard:
            try:
                if index_files.read_head(self.path) == self._head:
                    self._good = index_files.follow(self.path, self._head, self.state, self._good)
                    return self.seq
            except FileNotFoundError:  # the writer has just put another snapshot in place
                pass
            self._head, self.state, self._good, self.torn_bytes = index_files.read_state(self.path, verify=False)
            self._views = ViewCache()
            return self.seq

    def compact(self, *, retrain: bool = False, seed: int = 0, shred: bool = False) -> None:
        """Write a snapshot without dead vectors and start a new log; `retrain` builds the clustering tree anew.

        shred: overwrite deleted vectors in the old snapshot, and the old log, before these files go.
        """
        self._writable().close()
        self._settle()
        store = self.state.store
        dead = np.flatnonzero(~store.alive[: store.used]).astype(np.int32) if shred else None
        state = retrained(self.state, seed) if retrain else compacted(self.state)
        self._head = index_files.replace(self.path, self._head, compacted(state), shred=dead)
        _, fresh, good, _ = index_files.read_state(self.path, verify=False)
        with self.guard:
            self.state, self._views = fresh, ViewCache()
        self._log = index_files.open_log(self.path, self._head, good)

    def snapshot(self, dest: str | Path) -> None:
        """Write the index as it is now, without a log, to another directory."""
        self._settle()
        index_files.create(Path(dest), compacted(self.state))
        if self.plans:
            head = index_files.read_head(Path(dest))
            index_files.write_head(Path(dest), Head(head.kind, head.version, head.generation, self.plans))

    def keep_plans(self, plans: Sequence[PlanRecord]) -> None:
        """Put what `tune` measured into the manifest, in place of what stood there for the same recall and k."""
        self._writable()
        asked = {(plan.recall, plan.k) for plan in plans}
        kept = [plan for plan in self.plans if (plan.recall, plan.k) not in asked]
        self._head = Head(self._head.kind, self._head.version, self._head.generation, (*kept, *plans))
        index_files.write_head(self.path, self._head)

    def close(self) -> None:
        """Give the lock back."""
        if self._log is not None:
            self._log.close()
        if self._lock is not None:
            os.close(self._lock)
        self._log = self._lock = None

    def _settle(self) -> None:
        """Bring every list up to date while no search is taken, so that reading them all later changes none."""
        with self.guard:
            self.state.tenants()

    def _sees(self, tenant: str, ids: Sequence[Id]) -> list[bool]:
        found, slot_of = self.state.tenant(tenant), self.state.store.slot_of
        if found is None:
            return [False] * len(ids)
        return found.held([slot_of[one] for one in ids], self.state.store.leaf)

    def _writable(self) -> Log:
        if self._log is None:
            raise UsageFault(f"{self.path}: open for reading; expected mode 'w'")
        return self._log

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """Keep searches from being taken meanwhile; then, unless a batch will, sync the log without holding them up."""
        log = self._writable()
        with self.guard:
            yield
        if not self._batched:
            log.commit()

    def _change(self, operation: Operation, *, needed: bool) -> None:
        """Log and make a change. One that changes nothing is not logged."""
        if needed:
            self._writable().append(self.seq + 1, *encode(operation))
            self.state.apply(operation)
