"""The client: submit, delete, look up, send, wait and watch."""
