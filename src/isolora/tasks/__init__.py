"""Tasks, one file each; a file's name is the task's name."""
