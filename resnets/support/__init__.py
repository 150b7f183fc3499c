"""What every other folder may use; nothing here knows of images or networks.

- `errors`: `UserError`, the one type for mistakes that a user can correct.
- `files`: files written whole or not at all, the cache folder, remembered digests.
- `names`: names that people gave, compared and printed; counts with their noun.
- `devices`: the devices of this machine, and its description for results.
- `distributed`: `World`, the processes that work on one task.
- `parallel`, `timing`, `signal_handlers`, `idle`, `download`, `markdown`, `ray_cluster`: one small
  helper each.
"""
