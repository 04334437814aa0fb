"""Following a study while it runs: in a terminal, and on a page of this machine. Neither loads torch nor writes to the study."""
