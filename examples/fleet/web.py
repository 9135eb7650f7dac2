"""The fleet's front: an order and the job that charges it are one commit. Whoever got a 201 has both.

SHOP_DATABASE=postgresql://localhost/shop uvicorn examples.fleet.web:web
curl --data '{"cents": 4200}' http://127.0.0.1:8000/orders
"""

from __future__ import annotations

import json

import psycopg
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from examples.fleet.shop import DATABASE, charge, jobs


async def order(request: Request) -> JSONResponse:
    """Hand in an order."""
    try:
        cents = int(json.loads(await request.body())["cents"])
    except (ValueError, KeyError, TypeError):
        return JSONResponse({"error": 'an order is {"cents": 4200}'}, 400)
    async with await psycopg.AsyncConnection.connect(DATABASE, connect_timeout=5) as connection:
        cursor = await connection.execute("INSERT INTO orders (cents) VALUES (%s) RETURNING id", (cents,))
        [[number]] = await cursor.fetchall()
        handle = await charge.options(connection=connection, id=f"charge {number}").aenqueue(number)
    return JSONResponse({"order": number, "job": handle.id}, 201)  # committed by now, both


async def show(request: Request) -> JSONResponse:
    """What became of it."""
    record = await jobs.handle(f"charge {request.path_params['number']}").arecord()
    return JSONResponse({"state": record.state, "attempt": record.attempt})


async def away(request: Request, error: Exception) -> JSONResponse:
    """The database is away: there is no order, and no job."""
    return JSONResponse({"error": "try again"}, 503, {"Retry-After": "1"})


web = Starlette(
    routes=[Route("/orders", order, methods=["POST"]), Route("/orders/{number:int}", show)],
    exception_handlers={psycopg.OperationalError: away},
)
