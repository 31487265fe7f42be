"""Tests with real brokers and real worker processes."""
