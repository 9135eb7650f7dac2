"""What the fork server imports last: its environment is as it was again, for others who fork from it."""

import os

from penstock.pool.processes.warm import LIMITED

for _name in LIMITED:
    os.environ.pop(_name, None)
