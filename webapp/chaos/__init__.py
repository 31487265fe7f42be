"""`forgepool chaos`: kills the real engine at every point, with signal 9, and looks at what became of the work."""
