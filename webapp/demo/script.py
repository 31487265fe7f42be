"""The script of the demo: its people, its repositories, its issues, and the mistakes that agents make on them. Pure."""

from collections.abc import Mapping

#: One reports its checks as workflow runs; the other's checks run elsewhere and cause no delivery at all.
REPOS = ("acme/widgets", "acme/gears")
OUTSIDE_CI = "acme/gears"
PERSON = "maya"

INSTANCES = {
    "dev-alpha": "dev",
    "dev-bravo": "dev",
    "reviewer-alpha": "reviewer",
    "reviewer-bravo": "reviewer",
    "boss-alpha": "boss",
    "boss-bravo": "boss",
}

#: Issue -> what goes wrong on it. "lost": the delivery that tells of its assignment.
SCRIPT: Mapping[str, tuple[str, ...]] = {
    "acme/widgets#1": (),
    "acme/gears#1": ("hang",),
    "acme/widgets#2": ("red-ci",),
    "acme/gears#2": ("crash",),
    "acme/widgets#3": ("changes",),
    "acme/gears#3": ("red-ci", "changes"),
    "acme/widgets#4": ("conflict",),
    "acme/gears#4": ("lost",),
    "acme/widgets#5": ("conflict",),
    "acme/gears#5": (),
}
TITLES: Mapping[str, str] = {
    "acme/widgets#1": "Add a login page",
    "acme/widgets#2": "Speed up the search",
    "acme/widgets#3": "Mend the date picker",
    "acme/widgets#4": "Write the manual",
    "acme/widgets#5": "Count the visitors",
    "acme/gears#1": "Oil the big wheel",
    "acme/gears#2": "Number the teeth",
    "acme/gears#3": "Turn both ways",
    "acme/gears#4": "Ring a bell at noon",
    "acme/gears#5": "Polish the brass",
}
#: The issue of which the whole trail is shown.
SHOWN = "acme/widgets#2"

#: What the checks of both repositories look for.
BUG = "BROKEN"


def repo_of(issue: str) -> str:
    """Return owner/name."""
    return issue.partition("#")[0]


def number_of(issue: str) -> int:
    """Return the number."""
    return int(issue.partition("#")[2])


def check(files: Mapping[str, str]) -> tuple[bool, str]:
    """Run the checks of the demo's repositories on the files of a commit; return whether they pass, and the log."""
    lines = ["== checking the features"]
    bad = []
    for name, text in sorted(files.items()):
        wrong = BUG in text or any(line.startswith(("<<<<<<<", ">>>>>>>")) for line in text.splitlines())
        lines.append(f"{name}: {'FAILED, it is broken' if wrong else 'ok'}")
        bad += [name] if wrong else []
    lines.append(f"{len(bad)} of {len(files)} files failed" if bad else f"all {len(files)} files are fine")
    return not bad, "\n".join(lines)
