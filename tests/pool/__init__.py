"""Tests of the pool: selection, states, the store."""
