"""The web app as the forge and the operator meet it: through HTTP, on a real database."""
