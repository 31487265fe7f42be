"""What the stand-in forge does not do as the real one: known gaps, kept true. Pure: no I/O.

Deliberate pessimism: `Closes #7.` with a full stop does not close here, although the pattern in Forgejo's
modules/references lets it: people have seen it fail, so nothing of ours may count on it.
"""

GAPS = (
    "Tokens have no scopes: every token may do what its account may.",
    "Repositories made by `create_repo` let every account write, unless told otherwise; those made over REST do not.",
    "No teams, organisations, forks, milestones, quotas, locked issues, packages, wiki, releases or attachments.",
    "New repositories always have one commit on `main`.",
    "No deliveries for push (but for tests of hooks), create, delete, deletions, dependencies or releases.",
    "Deliveries go out one by one after the answer, in the order of the changes, unless disorder is asked for.",
    "Hooks of owners and of the site are missing; a branch filter is kept and not applied; `form` is sent as JSON.",
    "Beside the named headers, httpx adds its own to a delivery.",
    "Assignees are listed in the order of assignment; Forgejo's order comes from an unordered join and may differ.",
    "Assignees need not be able to see the repository.",
    "Whether a pull request can be merged is known after a set time or number of answers; a merge attempt is one.",
    "Rules of branches hold for merges only, not for pushes, and have no lists of people, files or signatures.",
    "`closes #N` counts in title and text of the pull request only, not in commits or comments; nothing reopens.",
    "Reviews: no drafts that are submitted later, no resolved conversations, no team requests, no code owners.",
    "Dependencies may go in circles.",
    "A label's name is unique, and belongs to one repository.",
    "Checks are functions that tests give; there are no workflow files, runners, reruns or approvals of runs.",
    "Logs of jobs can be read with a token; the real web pages may want a session in a private repository.",
    "A slow answer is slow only; that a client gives up is its own affair.",
    "Of a commit, lists of files and numbers of lines are empty; `mergeable` of a closed pull request is false.",
    "Bodies of git requests are held in memory, and one push is served at a time.",
    "Redirects of renamed repositories, and names that differ in case only, are not known.",
)
