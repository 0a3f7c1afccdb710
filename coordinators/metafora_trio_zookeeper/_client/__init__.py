"""The client: submits and deletes tasks, looks them up, sends commands, follows a view."""
