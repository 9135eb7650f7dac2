"""Durable jobs in a PostgreSQL database, for as many machines as reach it.

    transact ──> one pipeline: a statement for each kind of request, and the end ──> server      one round trip
    find ──────> a connection of its own, one snapshot
    wait ──────> news: LISTEN on a connection of its own, and a look now and then

    job      waiting and running jobs           what a claim looks at stays small, however many have ended
    past     ended ones, until they are pruned
    known    the id of each, in either: a second job of an id can't come to be
    change   how many jobs went from where to where, since `tally` was summed up

Nothing rests on a session: no lock outlives its transaction, and prepared statements and the few settings of a
connection that is ours alone may be lost. So a pooler may stand between. All times are the server's.
"""

from penstock.engines.postgres.engine import PostgresEngine

__all__ = ["PostgresEngine"]
