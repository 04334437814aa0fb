"""Where points are shown while a run trains: one file a tracker, each ending in `tracker = ...`."""
