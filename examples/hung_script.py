"""A plain script whose job hangs for ever, and which ends on time all the same.

    python examples/hung_script.py      ends one second after its last line

No `with`, no shutdown, no signal handling: what a script looks like when nobody thought about its end. With
ThreadPoolExecutor it would never get its prompt back. Here the interpreter's exit is a stop like any other: the jobs
get the pool's grace, and then the process goes, after saying which job it left behind and where that job stood.
"""

import threading

from penstock import ThreadPool

the_answer = threading.Event()  # nobody will ever set it


def ask_somebody_who_never_answers() -> None:
    the_answer.wait()


pool = ThreadPool(2, grace=1.0, name="hung script")
pool.submit(ask_somebody_who_never_answers)
print(f"2 + 2 = {pool.submit(sum, (2, 2)).result()}, and that was the last line of this script", flush=True)
