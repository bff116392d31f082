"""Tasks in processes of their own: each has an outcome, whatever becomes of the others."""

import time

from bench.common.process_pool import Outcome, run_tasks


def outcomes(expressions, **limits):
    limits = {"processes": 2, "seconds_each": 60.0, "seconds": 60.0} | limits
    return {outcome.task: outcome for outcome in run_tasks(eval, expressions, **limits)}


def test_a_task_that_raises_crashes_or_hangs_costs_itself_and_no_other():
    raises, crashes, hangs = "1 / 0", "__import__('os')._exit(3)", "__import__('time').sleep(100)"
    found = outcomes(["6 * 7", hangs, raises, crashes, "2 + 2", "3 + 3"], seconds_each=8.0)
    assert [found[task].result for task in ("6 * 7", "2 + 2", "3 + 3")] == [42, 4, 6]
    assert found[raises].failure == "ZeroDivisionError: division by zero"
    assert found[crashes].failure == "its process ended with status 3"
    assert found[hangs].failure == "took more than 8 s"
    assert len(found) == 6


def test_a_process_whose_task_failed_is_not_used_again():
    """A kernel that reads beyond its memory leaves a GPU context in which everything else fails too."""
    broken = "setattr(__import__('sys'), 'broken', True) or 1 / 0"
    found = outcomes([broken, "hasattr(__import__('sys'), 'broken')"], processes=1)
    assert found["hasattr(__import__('sys'), 'broken')"].result is False


def test_when_the_time_is_used_up_what_runs_is_ended_and_what_waits_is_named():
    began = time.monotonic()
    found = outcomes(["__import__('time').sleep(100)", "1 + 1"], processes=1, seconds=2.0)
    assert time.monotonic() - began < 20
    assert set(found.values()) == {
        Outcome(task, failure="the time was used up") for task in ("__import__('time').sleep(100)", "1 + 1")
    }
