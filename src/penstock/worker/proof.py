"""What became of the jobs of a worker service, in one line at its end."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """The accounts of one service, from its start to its stop. *seconds*: that the stop took, of *grace*."""

    seconds: float
    grace: float
    done: int
    failed: int
    cancelled: int
    again: int  # attempts after which the job waits for another
    released: int  # handed back whole, or asked to end and obeyed; no attempt used
    killed: int  # cut by force, and handed back
    untold: int  # processes whose jobs could not be handed back: others have them when the lease runs out

    @property
    def ok(self) -> bool:
        """Whether nothing was cut by force or left behind."""
        return not self.killed and not self.untold

    @property
    def exit_code(self) -> int:
        """0 if `ok`, else 1."""
        return 0 if self.ok else 1

    def __str__(self) -> str:
        parts = [f"{self.done} done"]
        parts += [
            f"{count} {words}"
            for count, words in (
                (self.failed, "failed"),
                (self.cancelled, "cancelled"),
                (self.again, "to run again later"),
                (self.released, "handed back"),
            )
            if count
        ]
        parts.append(f"{self.killed} abandoned" + (" (killed in the middle, and handed back)" if self.killed else ""))
        told = f"stopped in {self.seconds:.1f} s of {self.grace:.3g}: {', '.join(parts)}"
        if self.untold:
            told += "; the store was not there to take back what is left: it runs elsewhere when the lease has run out"
        return told
