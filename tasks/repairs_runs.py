"""Repairs of runs and doorbells: what was committed is made to happen."""

from collections.abc import Iterable, Sequence

import structlog

from pool.errors import StaleTask
from pool.states import Move
from pool.store import DeadLettered, LeftAgent, Queued, RunningLease
from tasks import orphans
from tasks.dispatch import announce, retry_interrupted, ring, ring_if_silent
from tasks.repair import BY, MOST, Found, Repair, Scene, Who, host_lease

log = structlog.get_logger(__name__)

#: A publish normally takes milliseconds; what is unpublished for longer has been forgotten.
UNPUBLISHED_S = 2.0
#: A doorbell is normally answered at once; an idle instance with a queue that was rung this long ago may not have
#: heard it. The broker knows: only where it holds no message is there anything to repair.
SILENT_S = 1.0
#: Looking through all processes is not free.
STRAYS_S = 60.0

RENEWS_NO_MORE = "its worker stopped renewing the lease"


# --- dead runs -----------------------------------------------------------------------------------


def find_dead_runs(scene: Scene) -> list[Found]:
    """Find the dead runs of this host; the leader finds those of hosts that nobody looks after, too."""
    with scene.engine.store.reading() as tx:
        runs = {(run.task, run.fence): run for run in tx.running_leases()}
        leases = {lease.name: lease.until for lease in tx.list_leases()}
    strange = [key for key, run in runs.items() if run.host not in (None, scene.host)]
    dead = scene.runs.dead({key: run.until for key, run in runs.items()}, elsewhere=strange)
    ours = host_lease(scene.host)
    silent = scene.leases.dead(leases, elsewhere=[name for name in leases if name != ours])
    tended = leases.keys() - set(silent)
    return [
        Found(f"task {run.task} on {run.host or 'an unknown host'}, run {run.fence}", run)
        for run in map(runs.__getitem__, dead)
        if run.host == scene.host or (scene.is_leader and not (run.host and host_lease(run.host) in tended))
    ]


def interrupt_dead_runs(scene: Scene, found: Sequence[Found]) -> int:
    """End each dead run for good, then queue it again."""
    return sum(_interrupt(scene, one.key) for one in found)


def _interrupt(scene: Scene, run: RunningLease) -> bool:
    store, service = scene.engine.store, scene.engine.settings.service
    # Taken away first: a worker that lives after all must not report the end of an agent that we kill.
    with store.writing() as tx:
        fence = tx.seize_run(run.task, fence=run.fence, until=run.until, lease_s=service.run_lease_s)
        agent = tx.agent_of(run.task)
    if fence is None:
        return False
    is_here = run.host == scene.host
    # Ended before the retry is queued, so that the two never run beside each other.
    if is_here and not _end(scene, run.task, agent):
        return False
    again: list[Queued | DeadLettered] = []
    try:
        with store.writing() as tx:
            if tx.interrupt_run(run.task, fence=fence, by=BY, why=RENEWS_NO_MORE) is Move.INTERRUPT:
                again.append(retry_interrupted(scene.engine, tx, run.task, by=BY))
            if is_here and agent is not None:
                tx.forget_agent(run.task, pid=agent.pid)
    except StaleTask as error:
        log.info("run ended meanwhile", task=run.task, why=str(error))
        return False
    log.warning("run interrupted", task=run.task, host=run.host, why=RENEWS_NO_MORE)
    announce(scene.engine, again)
    return True


# --- agents without a run ------------------------------------------------------------------------


def find_orphans(scene: Scene) -> list[Found]:
    """Find the ended runs of this host whose agent is not known to be gone."""
    with scene.engine.store.reading() as tx:
        left = tx.left_agents(scene.host, limit=MOST)
    return [Found(f"task {agent.task}, process {agent.pid}", agent) for agent in left]


def end_orphans(scene: Scene, found: Sequence[Found]) -> int:
    """End what is left, and note that nothing is."""
    done = 0
    for one in found:
        agent: LeftAgent = one.key
        if _end(scene, agent.task, agent):
            with scene.engine.store.writing() as tx:
                done += tx.forget_agent(agent.task, pid=agent.pid)
    return done


def find_strays(scene: Scene) -> list[Found]:
    """Find processes that an agent started and that outlived its run, wherever in the process tree they are."""
    processes = orphans.marked(scene.engine.settings.state_dir)
    if not processes:
        return []
    with scene.engine.store.reading() as tx:
        standings = tx.standings(processes)
    return [
        Found(f"task {task}, processes {', '.join(str(one.pid) for one in processes[task])}", task)
        for task, standing in sorted(standings.items())
        # Of a task that is not there any more, or runs, nothing is known that would be against it.
        if standing.state.is_final and standing.host in (None, scene.host)
    ]


def end_strays(scene: Scene, found: Sequence[Found]) -> int:
    """End them."""
    return sum(_end(scene, one.key, None) for one in found)


def _end(scene: Scene, task: int, agent: LeftAgent | None) -> bool:
    """Kill what is left of a run here; tell whether nothing is left."""
    count, left = orphans.end(scene.engine.settings.state_dir, task, agent)
    if count:
        log.warning("orphans ended", task=task, processes=count)
    if left:
        log.error(
            "orphans do not end", task=task, processes=left, remedy="they hang in the kernel; restart the machine"
        )
    return not left


# --- doorbells -----------------------------------------------------------------------------------


def find_forgotten(scene: Scene) -> list[Found]:
    """Find tasks that were committed while the broker was away, or whose publisher was killed."""
    with scene.engine.store.reading() as tx:
        return _heads(tx.unpublished(older_than_s=UNPUBLISHED_S))


def publish_forgotten(scene: Scene, found: Sequence[Found]) -> int:
    """Ring for them; when the broker is still away, the next round tries again."""
    done = 0
    for one in found:
        if not ring(scene.engine, *one.key):
            break
        done += 1
    return done


def find_silent(scene: Scene) -> list[Found]:
    """Find queues whose worker is idle and whose message was lost, or came while it could not be served."""
    with scene.engine.store.reading() as tx:
        quiet = tx.silent_queues(rung_before_s=SILENT_S)
    return _heads((task, instance) for task, instance in quiet if not scene.engine.bell.waiting(instance))


def ring_again(scene: Scene, found: Sequence[Found]) -> int:
    """Ring for their heads."""
    return sum(ring_if_silent(scene.engine, *one.key) for one in found)


def _heads(found: Iterable[tuple[int, str]]) -> list[Found]:
    return [Found(f"task {task} on {instance}", (task, instance)) for task, instance in found]


REPAIRS = (
    Repair(
        name="interrupt-dead-runs",
        why="a worker died while its agent ran",
        find=find_dead_runs,
        act=interrupt_dead_runs,
        who=Who.HOST,
    ),
    Repair(
        name="end-orphans",
        why="a run ended, and its agent was not seen to end",
        find=find_orphans,
        act=end_orphans,
        who=Who.HOST,
    ),
    Repair(
        name="end-strays",
        why="a process of an agent escaped and outlived the run",
        find=find_strays,
        act=end_strays,
        who=Who.HOST,
        every_s=STRAYS_S,
    ),
    Repair(
        name="publish-forgotten",
        why="a task was committed but its message was not sent",
        find=find_forgotten,
        act=publish_forgotten,
    ),
    Repair(name="ring-again", why="a message was lost", find=find_silent, act=ring_again),
)
