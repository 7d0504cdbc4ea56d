"""Settings that all three rings of tests share."""

from hypothesis import settings

# Deadlines measure the machine, and a machine that runs other things fails them by chance.
settings.register_profile("steady", deadline=None)
settings.load_profile("steady")
