"""The fleet: a machine is lost, and every order is charged once."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from tests.needs import needed
from tests.postgres import Postgres

ROOT = Path(__file__).parents[2]
ORDERS = 60


def test_each_order_of_a_fleet_that_loses_a_machine_is_charged_once(postgres: Postgres) -> None:
    needed("starlette")
    needed("uvicorn")
    postgres.ask("CREATE DATABASE shop")

    url = f"postgresql://postgres@127.0.0.1:{postgres.port}/shop"
    ended = subprocess.run(
        [sys.executable, "-m", "examples.fleet", url],
        cwd=ROOT,
        env={**os.environ, "SHOP_ORDERS": str(ORDERS)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )

    said = ended.stdout + ended.stderr
    assert ended.returncode == 0, said
    assert "kill -9" in said
    assert re.search(rf"^orders +{ORDERS}$", said, re.M), said
    assert re.search(rf"^charges +{ORDERS}, of {ORDERS} orders$", said, re.M), said
    assert "Every order was charged exactly once." in said
    [[charges, orders]] = postgres.ask("SELECT count(*), count(DISTINCT order_id) FROM charge", database="shop")
    assert charges == orders == ORDERS
    [[left]] = postgres.ask("SELECT count(*) FROM penstock.job", database="shop")
    assert not left
