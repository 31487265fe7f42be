"""A stand-in for Forgejo: real git repositories, real deliveries and its REST interface, nothing to install."""
