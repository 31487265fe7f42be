"""The kill matrix, and that its checks are alive."""
