"""The engine: dispatch, workers, agents, fleet. Built on the pool; knows no Flask."""
