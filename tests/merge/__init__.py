"""The chain that merges, against everything that people, forges and crashes may do to it in any order."""
