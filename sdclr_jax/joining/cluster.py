"""Which of how many processes this one is, and where process 0 is: from the environment, or from the cluster."""

import os
from typing import NamedTuple

from jax._src.clusters import ClusterEnv  # what JAX knows of clusters has no public door

from sdclr_jax.errors import UserError, first_line
from sdclr_jax.output import tell

# How many processes there are to be, by what JAX does not know: Open MPI 5, MPICH and Intel MPI, torchrun; or by Slurm,
# outside of srun.
_STARTED = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "WORLD_SIZE", "SLURM_NTASKS")
_ADDRESS, _COUNT, _NUMBER = NAMES = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")


class Place(NamedTuple):
    """Of this process among the others."""

    address: str  # of process 0, host:port
    number: int  # from 0 on
    count: int
    devices: list[int] | None = None  # of its machine; None is all

    def __str__(self) -> str:
        return f"process {self.number} of 0 to {self.count - 1}"

    @property
    def host_and_port(self) -> tuple[str, int]:
        """Of process 0.

        >>> Place("[::1]:1234", 0, 2).host_and_port
        ('::1', 1234)
        """
        host, _, port = self.address.rpartition(":")
        return host.removeprefix("[").removesuffix("]"), int(port)


def find(limit: int) -> Place | None:
    """The place of this process; None where it is alone, which is said where no cluster was found.

    Args:
        limit: seconds to ask a cluster for it.

    Raises:
        UserError: the variables that JAX or a scheduler sets are not whole; or several processes were started by what
            JAX does not know, and each would work alone.
    """
    address, count, number = _from_environment()
    if number is None:
        try:  # JAX asks Slurm, MPI, Kubernetes and clouds, each with faults of its own
            found = ClusterEnv.auto_detect_unset_distributed_params(address, None, None, None, None, limit)
        except Exception as error:
            raise _no_cluster(f"{type(error).__name__}: {first_line(error)}") from error
        address, count, number, _ = found  # the last are the devices: JAX takes one a process, whatever there is
    if address is None:
        for name in _STARTED:
            if (started := os.environ.get(name, "")).isdecimal() and int(started) > 1:
                raise _no_cluster(f"{name} is {started}, and JAX finds no cluster")
        tell("--distributed: no cluster is found, so this process works alone")
    if address is None or count == 1:
        return None
    if count is None or number is None:
        raise _no_cluster(f"nothing says {'how many there are' if count is None else 'which of them this is'}")
    host, _, port = address.rpartition(":")
    if not (host and port.isdecimal() and 0 < int(port) < 2**16):
        raise UserError(f"--distributed: the address of process 0 is {address!r}: it must be host:port")
    return Place(address, number, count, _devices())


def _devices() -> list[int] | None:
    """Those of this machine that are this process's: its own one where a scheduler started several processes here which
    all see the same; else None, all that it sees."""
    if given := [int(i) for i in os.environ.get("JAX_LOCAL_DEVICE_IDS", "").split(",") if i.strip().isdecimal()]:
        return given
    get = os.environ.get
    own_alone = "SLURM_GPUS_PER_TASK" in os.environ or get("CUDA_VISIBLE_DEVICES", "").strip().isdecimal()
    of_slurm = get("SLURM_LOCALID"), _of_node(get("SLURM_STEP_TASKS_PER_NODE", ""), get("SLURM_NODEID", ""))
    of_mpi = get("OMPI_COMM_WORLD_LOCAL_RANK"), get("OMPI_COMM_WORLD_LOCAL_SIZE")
    for number, here in (of_mpi, of_slurm):
        if number and here and number.isdecimal() and here.isdecimal():
            return [int(number)] if int(here) > 1 and not own_alone else None
    return None


def _of_node(tasks: str, node: str) -> str | None:
    """How many tasks a node has, by Slurm's short form of those of all nodes.

    >>> [_of_node("2(x3),1", node) for node in ("2", "3", "4")]
    ['2', '1', None]
    """
    counts: list[str] = []
    for part in tasks.split(","):
        count, _, nodes = part.removesuffix(")").partition("(x")
        counts += [count] * (int(nodes) if nodes.isdecimal() else 1)
    return counts[int(node)] if node.isdecimal() and int(node) < len(counts) else None


def _no_cluster(why: str) -> UserError:
    return UserError(
        f"--distributed: the processes cannot be joined ({why}): see that the scheduler's variables are whole, or set "
        f"{', '.join(NAMES[:2])} and {NAMES[2]}; one process alone needs no --distributed"
    )


def _from_environment() -> tuple[str | None, int | None, int | None]:
    """What the three variables say: address, count and number."""
    given = [os.environ.get(name) for name in NAMES]
    if given[1] is None and given[2] is None:
        return given[0], None, None
    if None in given:
        raise UserError(f"--distributed: {NAMES[given.index(None)]} is not set: set all of {', '.join(NAMES)}, or none")
    for name in (_COUNT, _NUMBER):
        if not os.environ[name].isdecimal():
            raise UserError(f"--distributed: {name} is {os.environ[name]!r}: it must be a whole number from 0")
    address, count, number = given[0], int(given[1]), int(given[2])
    if number >= count:
        raise UserError(f"--distributed: {_NUMBER} is {number} and {_COUNT} {count}: processes are numbered from 0")
    return address, count, number
