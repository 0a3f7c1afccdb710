"""The command `demo`, which shows a small cluster at work."""
