"""What `forgepool demo` plays on the stand-in forge, and how it is shown and judged."""
