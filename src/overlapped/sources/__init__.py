"""Where items come from: any iterable, and several of them as one."""
