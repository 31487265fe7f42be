"""Commit statuses, workflow runs and checks on the stand-in forge. Calls the checks that tests give."""

from datetime import timedelta
from pathlib import Path

from webapp.standin.ci import ENDS, Ci, CiResult, Job, context_of
from webapp.standin.records import Pull, Repo, Run, Status
from webapp.standin.refusals import Unprocessable
from webapp.standin.shapes import encode_compact
from webapp.standin.tracker_pulls import Pulls

#: How a workflow run ends.
RUN_STATUSES = tuple(ENDS)
#: From worst to best (modules/structs/commit_status.go).
ORDER = ("error", "failure", "warning", "pending", "success", "skipped")


class Checks(Pulls):
    """What is known of commits."""

    ci: Ci

    def __init__(self, root: Path, **options: object) -> None:
        super().__init__(root, **options)  # type: ignore[arg-type]
        self.ci = Ci()

    # --- statuses ---

    def set_status(
        self,
        repo: str,
        sha: str,
        *,
        context: str,
        state: str,
        description: str = "",
        target_url: str = "",
        creator: str,
    ) -> Status:
        """Set a commit status; nobody is told, and a scheduled merge may follow a success."""
        with self._changing():
            found = self.repos[repo]
            status = Status(
                id=self.next_id(),
                context=context.strip() or "default",
                state=state,
                description=description.strip(),
                target_url=target_url.strip(),
                creator=creator,
                created_at=self.now,
            )
            found.statuses.setdefault(sha, []).append(status)
            for pull in [pull for pull in found.pulls if pull.head_sha == sha]:
                if "status-is-silent" not in self.model:
                    self._tell(found, pull, "edited", creator)
                if state == "success":
                    self._wake(found, pull)
            return status

    def newest_statuses(self, repo: Repo, sha: str) -> list[Status]:
        """Return the newest status of each context, newest first."""
        if "newest-status-of-context" in self.model:
            return repo.newest_statuses(sha)
        return list(reversed(repo.statuses.get(sha, [])))

    def combined_state(self, statuses: list[Status]) -> str:
        """Return what statuses come to together: models/git/commit_status.go, CalcCommitStatus."""
        states = [status.state for status in statuses]
        if not states:
            return "" if "no-status-is-empty" in self.model else "pending"
        ranks = [ORDER.index(state) if state in ORDER else len(ORDER) for state in states]
        worst = states[ranks.index(min(ranks))] if "worst-status-wins" in self.model else states[0]
        is_renamed = worst == "error" and "error-shown-as-failure" in self.model
        return "failure" if is_renamed else worst

    # --- runs ---

    def action_run(self, repo: str, number: int, status: str, *, workflow: str = "ci.yml", log: str = "") -> int:
        """End a workflow run of a pull request's head and return its id.

        A success after anything else makes two deliveries, and everything that is no success is a `failure`.
        """
        with self._changing():
            found, pull = self._touch_pull(repo, number)
            return self._run(found, pull, pull.head_sha, CiResult(state=status, log=log), workflow=workflow).id

    def _run(
        self,
        repo: Repo,
        pull: Pull | None,
        sha: str,
        result: CiResult,
        *,
        workflow: str,
        branch: str = "",
        run: Run | None = None,
    ) -> Run:
        if result.state not in ENDS:
            raise Unprocessable(f"a run ends as one of {', '.join(ENDS)}")
        run = run or self._start_run(repo, pull, sha, workflow=workflow, branch=branch)
        older = (one for one in reversed(repo.runs) if one.lane == run.lane and one is not run and one.status)
        last = next(older, None)
        run.status, run.log = result.state, result.log
        self._status_of_run(repo, run)
        actions = ["success" if run.status == "success" else "failure"]
        is_recovery = run.status == "success" and last is not None and last.status != "success"
        if is_recovery and "success-recovers" in self.model:
            actions.append("recover")
        for action in actions:
            value = self.shapes.run_event(repo, run, action=action, last=last)
            self._emit(repo, f"action_run_{action}", value)
        return run

    def _start_run(self, repo: Repo, pull: Pull | None, sha: str, *, workflow: str, branch: str = "") -> Run:
        trigger = self._pull_event(repo, pull, action="synchronized", sender=pull.author) if pull else {}
        run = Run(
            id=self.next_id(),
            index=len(repo.runs) + 1,
            workflow=workflow,
            status="",
            sha=sha,
            event_payload=encode_compact(trigger),
            pull=pull.number if pull else None,
            branch=branch,
        )
        repo.runs.append(run)
        self._status_of_run(repo, run)
        return run

    def _status_of_run(self, repo: Repo, run: Run) -> None:
        state, words = ENDS.get(run.status, ("pending", "Waiting to run"))
        if run.status == "cancelled" and "cancelled-is-failure" not in self.model:
            state = "cancelled"
        self.set_status(
            repo.full_name,
            run.sha,
            context=context_of(run.workflow, self.ci.job, is_pull=run.pull is not None),
            state=state,
            description=words,
            # services/actions/commit_status.go: without the address of the forge.
            target_url=f"/{repo.full_name}/actions/runs/{run.index}/jobs/0",
            creator="forgejo-actions",
        )

    # --- checks ---

    def _head_moved(self, repo: Repo, pull: Pull) -> None:
        self._enqueue(repo, pull.number, "", pull.head_sha)

    def _branch_moved(self, repo: Repo, branch: str, sha: str) -> None:
        bases = {repo.default_branch, *(pull.base for pull in repo.pulls if pull.state == "open")}
        if branch in bases:
            self._enqueue(repo, None, branch, sha)

    def _enqueue(self, repo: Repo, pull: int | None, branch: str, sha: str) -> None:
        if repo.full_name not in self.ci:
            return
        due = self.clock() + timedelta(seconds=self.ci.delay_s)
        self.ci.waiting.append(Job(repo=repo.full_name, pull=pull, branch=branch, sha=sha, due=due))
        if self.ci.is_outside(repo.full_name):
            self._external_status(repo, sha, "pending", "Waiting", is_pull=pull is not None)
        else:
            found = self.find_pull(repo, pull) if pull is not None else None
            self._start_run(repo, found, sha, workflow=self.ci.workflow, branch=branch)

    def run_checks(self) -> int:
        """Run all checks that wait, whether or not they are due; return how many."""
        return self._run_jobs(is_all=True)

    def tick(self) -> None:
        """Run the checks that are due."""
        if self.ci.waiting and not self.ci.is_manual:
            self._run_jobs(is_all=False)

    def _run_jobs(self, *, is_all: bool) -> int:
        done = 0
        while (job := self._next_job(is_all=is_all)) is not None:
            repo = self.repos[job.repo]
            # Outside the lock: a check may start programs.
            result = self.ci[job.repo](job.repo, job.pull, job.sha, repo.git.files(job.sha))
            with self._changing():
                self._finish(repo, job, result)
            done += 1
        return done

    def _next_job(self, *, is_all: bool) -> Job | None:
        with self._lock:
            now = self.clock()
            job = next((job for job in self.ci.waiting if is_all or job.due <= now), None)
            if job is not None:
                self.ci.waiting.remove(job)
            return job

    def _finish(self, repo: Repo, job: Job, result: CiResult) -> None:
        if self.ci.is_outside(repo.full_name):
            self._external_status(repo, job.sha, result.state, "Done", is_pull=job.pull is not None)
            return
        pull = self.find_pull(repo, job.pull) if job.pull is not None else None
        started = (one for one in repo.runs if one.sha == job.sha and one.pull == job.pull and not one.status)
        self._run(repo, pull, job.sha, result, workflow=self.ci.workflow, branch=job.branch, run=next(started, None))

    def _external_status(self, repo: Repo, sha: str, state: str, words: str, *, is_pull: bool) -> None:
        self.set_status(
            repo.full_name,
            sha,
            context=self.ci.context(repo.full_name, is_pull=is_pull),
            state=state,
            description=words,
            target_url="https://ci.example.org/",
            creator=self.ci.creator(repo.full_name),
        )

    def log_of(self, repo: str, index: int) -> str | None:
        """Return the log of a run; None: there is no such run."""
        found = self.repos.get(repo)
        runs = [run for run in found.runs if run.index == index] if found else []
        return runs[0].log if runs else None
