"""Hypothesis without a clock: a busy machine is no failure."""

import hypothesis

hypothesis.settings.register_profile("steady", deadline=None)
hypothesis.settings.load_profile("steady")
