"""The command demo: a small cluster at work."""
