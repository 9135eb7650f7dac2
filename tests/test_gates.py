import pytest

from tests.gates import GUARD, Gate, in_thread


def test_a_gate_holds_until_it_is_opened_and_hands_on_its_argument() -> None:
    gate = Gate()
    held = in_thread(gate, "through")
    gate.wait_entered()
    assert gate.entered.is_set()
    assert not held.done()

    gate.open()

    assert held.result(GUARD) == "through"
    assert gate() is None, "an open gate holds nobody"


def test_a_gate_counts_those_inside() -> None:
    gate = Gate()
    held = [in_thread(gate) for _ in range(3)]

    gate.wait_entered(3)
    gate.open()

    assert [job.result(GUARD) for job in held] == [None] * 3


def test_in_thread_brings_back_the_error() -> None:
    with pytest.raises(ZeroDivisionError):
        in_thread(divmod, 1, 0).result(GUARD)
