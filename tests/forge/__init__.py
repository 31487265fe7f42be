"""Tests against a forge that answers over REST."""
