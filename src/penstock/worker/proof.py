"""What became of the jobs of a worker service, in one line at its end."""

from __future__ import annotations

from dataclasses import dataclass

from penstock.worker.board import Account
from penstock.worker.counted import counted


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """The accounts of one service, from its start to its stop. *seconds*: that the stop took, of *grace*."""

    seconds: float
    grace: float
    account: Account
    killed: int  # cut by force, and handed back
    untold: int  # had ended, or not begun, and the store had not heard of it when their process was gone
    left: int  # processes whose jobs could not be handed back: others have them when the lease runs out

    @property
    def ok(self) -> bool:
        """Whether nothing was cut by force or left behind."""
        return not (self.killed or self.untold or self.left)

    @property
    def exit_code(self) -> int:
        """0 if `ok`, else 1."""
        return 0 if self.ok else 1

    def __str__(self) -> str:
        parts = [f"{self.account.done} done"]
        parts += [
            f"{count} {words}"
            for count, words in (
                (self.account.failed, "failed"),
                (self.account.cancelled, "cancelled"),
                (self.account.again, "to run again later"),
                (self.account.released, "handed back"),
                (self.account.stale, "too late (somebody else's by then)"),
            )
            if count
        ]
        parts.append(f"{self.killed} abandoned" + (" (killed in the middle, and handed back)" if self.killed else ""))
        told = f"stopped in {self.seconds:.1f} s of {self.grace:.3g}: {', '.join(parts)}"
        if self.untold:
            told += f"; the store had not heard of {counted(self.untold, 'more job')}, to run again"
        if self.left:
            told += "; the store was not there to take back what is left: it runs elsewhere when the lease has run out"
        return told
