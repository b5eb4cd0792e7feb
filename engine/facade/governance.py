"""The part of the facade for rules: who may do what, how memories are treated, the audit log, receipts.

Thin calls, as the rest of the facade.
"""

from __future__ import annotations

from cubes import MemCube, Memory
from engine import governing, receipts
from engine.cube_operations import AuditEntry, Govern, SetCube, Share
from engine.facade.wiring import Wired
from engine.operations import Caller, Receipt, VerifiedReceipt
from engine.tier_operations import WorkView


class Governance(Wired):
    """What can be done about rules."""

    def govern(self, request: Govern, caller: Caller) -> tuple[Memory, ...]:
        """Set how memories are to be treated. See `engine.governing`."""
        return governing.govern(self._parts, request, caller)

    def set_cube(self, request: SetCube, caller: Caller) -> MemCube:
        """Make a cube or set its header and rules. See `engine.governing`."""
        return governing.set_cube(self._parts, request, caller)

    def share(self, request: Share, caller: Caller) -> MemCube:
        """Open a cube to others, or let one principal in. See `engine.governing`."""
        return governing.share(self._parts, request, caller)

    def audit(
        self, caller: Caller, since: int | None = None, limit: int = 100, cube: str | None = None
    ) -> tuple[AuditEntry, ...]:
        """Rows of the audit log. See `engine.governing`."""
        return governing.audit(self._parts, caller, since, limit, cube)

    def verify_audit(self, caller: Caller) -> tuple[str, ...]:
        """What is wrong with the audit log, and where. See `engine.governing`."""
        return governing.verify_audit(self._parts, caller)

    def receipt(self, id: str, caller: Caller) -> Receipt:
        """The receipt of an erasure, as it is by now. See `engine.receipts`."""
        return receipts.fetch(self._parts, id, caller)

    def receipts(self, caller: Caller) -> tuple[Receipt, ...]:
        """The receipt of every erasure, the last one last. See `engine.receipts`."""
        return receipts.fetch_all(self._parts, caller)

    def after_erasing(self, id: str, caller: Caller) -> tuple[WorkView, ...]:
        """The work that the erasure with this receipt asked for, and what became of it. Raises as `receipt`."""
        receipts.fetch(self._parts, id, caller)
        asked = receipts.follow_ups(self._parts, id)
        return tuple(view for view in self._distilling.work(caller) if view.id in asked)

    def verify_receipt(self, raw: bytes) -> VerifiedReceipt:
        """Whose signature a receipt has, and whether it is in this store's audit log. See `engine.receipts`."""
        return receipts.verified(self._parts, raw)
