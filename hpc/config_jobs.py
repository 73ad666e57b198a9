"""The `local` and `slurm` sections of a campaign's configuration: where trials run, and how many at a time."""

from asiarch.hpc.config_evaluation import Section
from asiarch.hpc.config_values import Count, Duration, Natural
from asiarch.hpc.settings import trials_in_flight


class LocalConfig(Section):
    """This machine: how many trials train at a time, and the ranks (processes) of each."""

    slots: Count
    ranks: Count


class SlurmConfig(Section):
    """What a candidate job asks Slurm for; `max_in_flight` and `max_gpus` bound what waits or runs at a time."""

    partition: str | None
    account: str | None
    qos: str | None
    time: Duration
    nodes: Count
    gpus_per_node: Natural
    cpus_per_task: Count
    mem_gb: Count | None
    max_in_flight: Count
    max_gpus: Count | None
    array_parallelism: Count | None
    setup: tuple[str, ...]
    extra: dict[str, str]

    @property
    def trials_in_flight(self) -> int:
        """How many trials may wait or run at a time, by both limits."""
        return trials_in_flight(self.max_in_flight, self.max_gpus, self.nodes * self.gpus_per_node)
