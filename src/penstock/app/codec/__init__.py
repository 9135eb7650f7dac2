"""How calls and results travel: as JSON, typed by the task's signature. Never as pickles.

    enqueue     signature.bind ──> {parameter: value} ──> JSON ──> the same value again? ──> the store
    worker      the store ──> JSON ──> typed by the hints ──> args, kwargs ──> the function

What is enqueued is decoded at once and compared: what the function will get equals, in value and type, what it was
given, or the call is refused there and then.
"""

from __future__ import annotations

try:
    import msgspec as _msgspec  # noqa: F401
except ModuleNotFoundError as error:
    if error.name != "msgspec":
        raise
    raise ImportError("durable jobs need msgspec, which comes with: pip install 'penstock[sqlite]'") from error
