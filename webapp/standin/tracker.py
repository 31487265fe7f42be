"""What people do on the stand-in forge: each method changes its state and sends what Forgejo sends for that.

The parts, each on top of the one before: tracker_base (accounts, repositories), tracker_issues, tracker_pulls (reviews,
pushes), tracker_checks (statuses, runs), tracker_merge.
"""

from webapp.standin.refusals import Refusal, Unprocessable
from webapp.standin.tracker_checks import RUN_STATUSES
from webapp.standin.tracker_merge import Merges

__all__ = ["RUN_STATUSES", "Refusal", "Tracker", "Unprocessable"]


class Tracker(Merges):
    """Accounts, repositories, issues and pull requests.

    `sender`, where it may be left out, is the owner of the repository.
    """
