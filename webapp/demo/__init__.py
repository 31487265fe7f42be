"""A stand-in for Forgejo: real git repositories and real deliveries, without a server to install."""
