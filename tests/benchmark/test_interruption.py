"""Ctrl-C ends the work, whatever a library does with the exception."""

import signal
import subprocess
import sys
import threading

import pytest

from benchmark.interruption import defer_interruptions, stop
from tests.conftest import ROOT
from tests.helpers import let_be_interrupted


@pytest.fixture
def handlers():
    """Handle SIGTERM as commands do, and restore the handlers at the end."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, stop)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_is_answered_at_the_end(handlers, number):
    done = False
    with pytest.raises(KeyboardInterrupt), defer_interruptions():
        try:
            signal.raise_signal(number)
        except BaseException:
            pytest.fail("it was answered within")
        done = True
    assert done
    with pytest.raises(KeyboardInterrupt):  # at once again
        signal.raise_signal(number)


def test_an_exception_of_the_work_gives_way_to_an_interruption(handlers):
    with pytest.raises(KeyboardInterrupt), defer_interruptions():
        signal.raise_signal(signal.SIGINT)
        raise ValueError


def test_a_signal_that_a_process_ignores_stays_ignored(handlers):
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with defer_interruptions():
        signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_other_threads_leave_the_handlers_alone(handlers):
    seen = []

    def work():
        with defer_interruptions():
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [signal.default_int_handler]


# a library that torch's compiler imports looks for gmpy2 and catches every exception
INTERRUPTED_IMPORT = """
import signal
import sys

from torch import nn

from benchmark import networks
from benchmark.training.optimizers import Schedule, make_optimizer

class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == "gmpy2":
            sys.meta_path.remove(interrupt)  # the first time alone
            print("interrupted", flush=True)
            signal.raise_signal(signal.SIGINT)

sys.meta_path.insert(0, interrupt := Interrupt())
network, schedule = networks.build("resnet8", 10, 32), Schedule(0.1, 0.9, False, 5e-4, [], 0.1)
{work}
print("went on")
"""


@pytest.mark.parametrize(
    "work", ["networks.multiplications('resnet8', 10, 32)", "make_optimizer(schedule, network, nn.Module(), 'cpu')"]
)
def test_an_interruption_while_torch_imports_its_compiler_is_not_lost(work):
    ended = subprocess.run(
        [sys.executable, "-c", INTERRUPTED_IMPORT.format(work=work)], cwd=ROOT,
        capture_output=True, text=True, timeout=300,
        preexec_fn=let_be_interrupted,
    )  # fmt: skip
    assert ended.stdout == "interrupted\n" and "KeyboardInterrupt" in ended.stderr, ended.stderr
