"""The start of a process among others: JAX lets them wait for each other, here it is said for whom, and how long."""

import os
import sys
import threading

import jax
from jax._src import distributed  # what it knows while it waits has no public door

from sdclr_jax.errors import UserError, first_line

LIMIT = 300  # seconds until all have started
_SAY = 10  # seconds of waiting, until it is said


def join() -> None:
    """Join the processes of a cluster (TPU pod, Slurm, MPI), or those that JAX_COORDINATOR_ADDRESS (host:port of
    process 0), JAX_NUM_PROCESSES and JAX_PROCESS_ID name; where there is none of these, this process is alone.

    Says for whom it waits, and ends the process with a sentence where the others do not come in `SDCLR_JOIN_SECONDS`,
    300 by default.

    Raises:
        UserError: only some of the three variables are set, or one is wrong; or JAX cannot join the processes.
    """
    limit, by_hand = _join_limit(), _from_environment()
    waiting = [threading.Timer(_SAY, _say_that_it_waits, [limit]), threading.Timer(limit, _nobody_came, [limit])]
    for timer in waiting:
        timer.daemon = True
        timer.start()
    try:
        jax.distributed.initialize(**by_hand, initialization_timeout=limit + 5, shutdown_timeout_seconds=15)
    except Exception as error:  # JAX asks Slurm, MPI, Kubernetes and clouds, each with faults of its own
        alone = isinstance(error, ValueError) and "coordinator_address" in str(error)
        if not alone:
            raise UserError(
                f"--distributed: the processes cannot be joined ({type(error).__name__}: {first_line(error)}): see "
                "that the scheduler's variables are whole, or set JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and "
                "JAX_PROCESS_ID; one process alone needs no --distributed"
            ) from error
    finally:
        for timer in waiting:
            timer.cancel()


def _from_environment() -> dict[str, int]:
    """What JAX does not read from the environment by itself."""
    numbers = {"num_processes": "JAX_NUM_PROCESSES", "process_id": "JAX_PROCESS_ID"}
    given = {argument: os.environ[name] for argument, name in numbers.items() if name in os.environ}
    if not given:
        return {}
    names = ("JAX_COORDINATOR_ADDRESS", *numbers.values())
    if missing := [name for name in names if name not in os.environ]:
        raise UserError(f"--distributed: {missing[0]} is not set: set all of {', '.join(names)}, or none")
    for argument, value in given.items():
        if not value.isdecimal():
            raise UserError(f"--distributed: {numbers[argument]} is {value!r}: it must be a whole number from 0")
    count, number = (int(value) for value in given.values())
    if number >= count:
        raise UserError(
            f"--distributed: JAX_PROCESS_ID is {number} and JAX_NUM_PROCESSES {count}: processes are numbered from 0"
        )
    return {"num_processes": count, "process_id": number}


def _join_limit() -> int:
    given = os.environ.get("SDCLR_JOIN_SECONDS") or str(LIMIT)
    if not given.isdecimal() or not 1 <= int(given) <= 86_400:
        raise UserError(f"the environment has SDCLR_JOIN_SECONDS={given}: it must be a number of seconds, 1 to 86400")
    return int(given)


def _say_that_it_waits(limit: int) -> None:
    print(f"{_which_of_them()} waits for the others, {limit} s at most", file=sys.stderr, flush=True)


def _nobody_came(limit: int) -> None:
    sentence = (
        f"{_which_of_them()} has waited {limit} s, and not all others have come: the one that says nothing was not "
        "started, or does not reach that address; start each once, with its own number"
    )
    print(f"sdclr: {sentence}", file=sys.stderr, flush=True)
    os._exit(UserError.status)


def _which_of_them() -> str:
    """This process by its number, from 0 on, while JAX waits for the others."""
    state = distributed.global_state
    where = f", at {state.coordinator_address}," if state.coordinator_address else ""
    return f"process {state.process_id} of 0 to {(state.num_processes or 1) - 1}{where}"
